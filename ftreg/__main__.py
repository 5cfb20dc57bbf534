"""``python -m ftreg`` is ``ftreg``."""

from ftreg.cli.main import main

main()
