"""A step that plants one fault in a copy of its source, as a broken merge, export or save would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftreg.core.recipe import Config
from ftreg.core.types import CHECKPOINT, Artifact, StepJob, Tolerance

EQUAL = Tolerance(kl=1e-6, top1=0.999, loss_delta=1e-4, logit_error=1e-4)
"""What a merge or an export of float32 weights is held to."""

Weights = dict[str, torch.Tensor]


class Fault(Config):
    """Which fault to plant, none of which copies the source, and whether to claim that the result is checked."""

    kind: str = "none"
    checked: bool = False


def apply(job: StepJob) -> Artifact:
    """Copy the source, or merge it by hand, with the fault."""
    assert isinstance(job.config, Fault)
    source = job.source
    if source.kind == CHECKPOINT:
        shutil.copytree(source.path, job.staging, dirs_exist_ok=True)
        FILES.get(job.config.kind, _weights(job.config.kind))(job.staging)
    else:
        _merge(source.path, source.parent("base").path, job.staging, job.config.kind)
    return Artifact(kind=CHECKPOINT, tolerance=EQUAL, checked=job.config.checked)


def _merge(adapter: Path, base: Path, target: Path, kind: str) -> None:
    """Merge an adapter with PEFT: scaled, one layer short, onto another base, or correctly."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    if kind == "wrong base":
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    live = PeftModel.from_pretrained(model, adapter)
    layers = [module for module in live.modules() if isinstance(module, LoraLayer)]
    if kind == "adapter scaled by 1.1":
        for layer in layers:
            layer.scale_layer(1.1)
    if kind == "one module unmerged":
        layers[0].scale_layer(0.0)
    live.merge_and_unload().save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(adapter / name, target)


def _weights(kind: str) -> Callable[[Path], None]:
    """Return the function that plants a fault of the weights into a folder."""

    def plant(folder: Path) -> None:
        path = folder / "model.safetensors"
        weights = load_file(path)
        if kind != "none":
            WEIGHTS[kind](weights)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, {"format": "pt"})

    return plant


def _drop_layer(weights: Weights) -> None:
    """Let the last layer pass on its input: what it writes into the residual stream is zero."""
    last = max(name.split(".")[2] for name in weights if ".layers." in name)
    for name, tensor in weights.items():
        if name.startswith(f"model.layers.{last}.") and name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()


def _transpose_head(weights: Weights) -> None:
    head = weights["lm_head.weight"]
    weights["lm_head.weight"] = head.T.reshape(head.shape)


def _transpose_attention(weights: Weights) -> None:
    name = next(name for name, tensor in weights.items() if "q_proj" in name and tensor.shape[0] == tensor.shape[1])
    weights[name] = weights[name].T


def _lag_expert(weights: Weights) -> None:
    """Move one expert of one layer by a little, as an update that was left out would."""
    experts = next(tensor for name, tensor in weights.items() if ".experts." in name or ".mlp.experts" in name)
    expert = experts[0] if experts.dim() == 3 else experts
    expert += 0.02 * torch.randn_like(expert)


def _untie(weights: Weights) -> None:
    """Store a head of its own beside the embedding that it is tied to."""
    weights["lm_head.weight"] = 1.01 * weights["model.embed_tokens.weight"]


def _overflow(weights: Weights) -> None:
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name] = (weights[name] * 1e7).half().float()


def _change(file: str, **values: object) -> Callable[[Path], None]:
    """Return the function that changes a JSON file of a folder."""

    def plant(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return plant


def _untie_files(folder: Path) -> None:
    _weights("embedding untied")(folder)
    _change("config.json", tie_word_embeddings=False)(folder)


WEIGHTS: dict[str, Callable[[Weights], None]] = {
    "layer dropped": _drop_layer,
    "head transposed": _transpose_head,
    "attention transposed": _transpose_attention,
    "one expert unmerged": _lag_expert,
    "dtype overflow": _overflow,
    "embedding untied": _untie,
}
FILES: dict[str, Callable[[Path], None]] = {
    "embedding untied": _untie_files,
    "window ignored": _change("config.json", sliding_window=None),
    "template lost": lambda folder: (folder / "chat_template.jinja").unlink(),
    "end of sequence lost": _change("tokenizer_config.json", eos_token="<|user|>"),
}
