"""What the tests of steps and engines share: sources made by hand, adapters with weights, live logits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftreg.core.manifest import Manifest, Parent, Producer
from ftreg.core.types import Artifact, Example, Input, Message, NullProgress, Source, StepJob
from ftreg.evaluation import Parity, make_probe
from tests.evaluation.helpers import compare

EXAMPLES = [
    Example(messages=(Message("user", question), Message("assistant", answer)))
    for question, answer in (
        ("How do I reset my password?", "Open Settings, choose Security and follow the link we send you."),
        ("Where can I see my invoices?", "All invoices are listed under Billing."),
        ("The app does not start.", "Please update to the newest version and try again."),
        ("Can I add more people to my team?", "Yes, invite them from the Members page."),
    )
]

IDS = [[5, 9, 17, 33, 65, 129, 255, 60, 61, 62], [40, 41, 42], [300, 2, 7, 7, 11, 12]]


class Listener(NullProgress):
    """A progress that remembers the lines that were said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def make_source(
    folder: Path,
    kind: str = "checkpoint",
    *,
    base: Source | None = None,
    digest: str = "b3:base",
    facts: Mapping[str, Any] | None = None,
) -> Source:
    """A version as a step sees it, with ``base`` as its parent, without a registry."""
    parents = (Parent("base", base.digest),) if base else ()
    producer = Producer("method", "lora", "methods", "ftreg", "0")
    manifest = Manifest(kind, "text-generation", (), parents, producer, facts=dict(facts or {}))
    known = {base.digest: base} if base else {}
    return Source("bot:1", digest, folder, manifest, known.__getitem__)


def make_job(
    source: Source,
    config: Any,
    staging: Path,
    *,
    weight: float = 1.0,
    others: Sequence[tuple[Source, float]] = (),
    **more: Any,
) -> StepJob:
    """A job that writes into ``staging``."""
    inputs = tuple(Input("adapter", each, part) for each, part in ((source, weight), *others))
    return StepJob(inputs=inputs, config=config, staging=staging, report=staging, **more)


def make_adapter(
    base: Path, config: Any, folder: Path, *, seed: int, facts: Mapping[str, Any], scale: float = 0.05
) -> Path:
    """Write an adapter for ``base`` whose weights are all random, with the base's tokenizer."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = facts.get("base_quantization")
    arguments = {"quantization_config": BitsAndBytesConfig(**quantization)} if quantization else {}
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **arguments), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * scale)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, folder)
    return folder


def plain_logits(folder: Path, adapter: Path | None = None) -> np.ndarray:
    """Logits that plain transformers (and PEFT) compute in float32 for ``IDS[0]``."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(IDS[:1])).logits[0].numpy()


def parity_of(parent: Source, artifact: Artifact, folder: Path) -> Parity:
    """What the certificate would say of a step's result."""
    from ftreg.plugins.engines import onnx, transformers

    ours = transformers.load(parent, "cpu")
    load = onnx.load if artifact.kind == "onnx" else transformers.load
    theirs = load(make_source(folder, artifact.kind), "cpu")
    return compare(ours, theirs, make_probe(ours.tokenizer, EXAMPLES))
