"""Loading: a base's model and tokenizer, on the device and in the precision that a run asks for, without noise."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from ftreg.core.errors import InputError
from ftreg.core.recipe import TrainConfig
from ftreg.core.types import TrainJob
from ftreg.data import Encoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TALKATIVE = ("accelerate", "peft", "torch")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While this lasts, the libraries below write no bars, warnings or logs: ``Progress`` tells the user."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def resolve_device(train: TrainConfig) -> torch.device:
    """The device that ``train.device`` means here; raise ``InputError`` for one that is not there."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if train.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[train.device]:
        raise InputError(f"there is no {train.device} device here", where="train.device", hint="Set it to auto.")
    return torch.device(train.device)


def resolve_precision(train: TrainConfig) -> str:
    """``fp32``, ``bf16`` or ``fp16``: what ``train.precision`` means on the device; ``InputError`` if it cannot be."""
    device = resolve_device(train)
    if train.precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if train.precision == "fp16" and device.type != "cuda":
        raise InputError(
            f"fp16 trains on CUDA devices only, and this runs on {device.type}",
            where="train.precision",
            hint="Set it to auto.",
        )
    return train.precision


def compute_dtype(train: TrainConfig) -> torch.dtype:
    """The dtype that matrix products run in, and in which weights that are not trained are best held."""
    return _DTYPES[resolve_precision(train)]


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer from a model's folder; raise ``InputError`` where there is none."""
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"has no tokenizer that can be loaded: {_first_line(error)}", where=str(folder)) from error


def load_encoder(job: TrainJob) -> Encoder:
    """The encoder of a job's examples: its base's tokenizer, with the chat template that the job asks for."""
    return Encoder(load_tokenizer(job.base), max_length=job.train.max_length, template=job.template)


def load_model(job: TrainJob, **arguments: Any) -> Any:
    """Load a job's base, seeded, on its device, in fp32 unless ``dtype`` says otherwise.

    Args:
        job: The job.
        **arguments: Further arguments of ``AutoModelForCausalLM.from_pretrained``. Methods that freeze the base
            do well to pass ``dtype=compute_dtype(job.train)``.

    Raises:
        InputError: The base is no causal language model, or its files lack weights.
    """
    device = resolve_device(job.train)
    transformers.set_seed(job.train.seed)
    arguments = {"dtype": torch.float32, "device_map": {"": device}, **arguments}
    try:
        with quiet():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                job.base, local_files_only=True, use_safetensors=True, output_loading_info=True, **arguments
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            f"cannot be loaded as a causal language model: {_first_line(error)}", where=str(job.base)
        ) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise InputError(f"lacks weights of its own architecture: {', '.join(lacking[:3])}", where=str(job.base))
    keep_4bit_layout(model)
    return model


def keep_4bit_layout(model: Any) -> None:
    """Keep bitsandbytes' 4-bit layers from turning into their layout for inference.

    On CPUs with AVX-512 BF16 they do so at the first evaluation, for good: from then on they round to bf16, fail where
    the input features are no multiple of the block size, and let no gradients through, without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
