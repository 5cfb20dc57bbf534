"""AWQ with gptqmodel, as a program: ``python -m ftreg.compat.awq JOB``.

gptqmodel has AWQ in its own pipeline only, which prints, starts threads that do not end, and writes its logs into the
current folder. It therefore runs in a process and a folder of its own, with ``ENVIRONMENT``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ENVIRONMENT = {"GPTQMODEL_CPU_WORKERS": "2"}
"""With a single worker, its choice on two cores, the pipeline waits for itself."""


def main(job: Path) -> None:
    """Quantize the linear layers in the decoder layers of a model to 4 bits, and save it.

    Args:
        job: A JSON file with the keys ``source``, a checkpoint with its tokenizer; ``target``, a folder to write;
            ``dtype``, ``float16`` or ``bfloat16``, to compute in and to store the other weights in; ``group_size``, how
            many weights of a row share a scale, or -1 for all; ``rows``, lists of token ids to calibrate on.
    """
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import AWQConfig

    settings = json.loads(job.read_text(encoding="utf-8"))
    # Zero points, because readers know AWQ with them; on the CPU, because a replay elsewhere shall write the same.
    config = AWQConfig(bits=4, group_size=settings["group_size"], sym=False, device="cpu", offload_to_disk=False)
    model = GPTQModel.load(settings["source"], config, dtype=getattr(torch, settings["dtype"]))
    calibration = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in settings["rows"]]
    model.quantize(calibration, batch_size=1, calibration_data_min_length=1, backend=BACKEND.AWQ_TORCH)
    model.save(settings["target"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
