"""The built-in plugins, found through entry points like anyone else's."""

import logging

# bitsandbytes remarks on optional kernels when transformers or peft import it, on standard error, in every process.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
