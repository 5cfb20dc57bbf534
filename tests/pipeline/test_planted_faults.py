"""Planted faults: what a certificate must find, on models of the families in which each has happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftreg import Registry
from ftreg.api import steps
from ftreg.core.errors import FtregError
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Producer
from ftreg.core.specs import StepSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, Version
from ftreg.registry import Draft


class _Faults:
    @hookimpl
    def ftreg_steps(self) -> list[StepSpec]:
        config, impl = "tests.pipeline.faults:Fault", "tests.pipeline.faults:apply"
        return [StepSpec(name="fault", summary="A fault.", impl=impl, config=config, accepts=(CHECKPOINT, ADAPTER))]


@pytest.fixture(scope="module")
def workshop(registry: Registry) -> Iterator[Registry]:
    """Open the pipeline tests' registry with the step that plants faults."""
    host = PluginHost()
    host.register(_Faults())
    with Registry(registry.home, host=host) as opened:
        yield opened


def _published(registry: Registry, folder: Path, name: str) -> Version:
    """Publish a model folder as a version without a dataset in its lineage."""
    with registry.staging() as staging:
        registry.copy_in(folder, staging.files)
        producer = Producer("import", "base", "core", "ftreg", "")
        return registry.publish(name, Draft(folder=staging.files, kind=CHECKPOINT, producer=producer))


@pytest.mark.parametrize(
    ("fault", "family", "found"),
    [
        ("layer dropped", "llama", "KL"),
        ("head transposed", "llama", "KL"),
        ("attention transposed", "llama", "KL"),
        ("embedding untied", "llama tied", "logit error"),
        ("one expert unmerged", "mixtral", "logit error"),
        ("window ignored", "mistral", "beyond the window of 32 tokens, "),
        ("dtype overflow", "llama", "logits that are not finite"),
        ("template lost", "llama", "the chat template differs"),
        ("end of sequence lost", "llama", "the end-of-sequence token differs"),
    ],
)
def test_a_fault_of_a_checkpoint(
    fault: str, family: str, found: str, workshop: Registry, model_folder: Callable[..., Path]
) -> None:
    """A result with the fault is refused by either probe for the reason that fits, and one without it passes."""
    architecture, _, tied = family.partition(" ")
    source = _published(workshop, model_folder(architecture, bool(tied)), f"sound-{architecture}{tied}")
    before = workshop.count()
    for checked in (False, True):
        with pytest.raises(FtregError, match=found):
            steps.apply("fault", source.ref, kind=fault, checked=checked, registry=workshop)
    assert workshop.count() == before
    assert steps.apply("fault", source.ref, registry=workshop).kind == CHECKPOINT


@pytest.mark.parametrize("fault", ["adapter scaled by 1.1", "wrong base", "one module unmerged"])
def test_a_fault_of_a_merge(fault: str, workshop: Registry, adapter: Version) -> None:
    """A merge with the fault is refused by either probe, and one without it passes."""
    before = workshop.count()
    for checked in (False, True):
        with pytest.raises(FtregError, match="is too far from"):
            steps.apply("fault", adapter.ref, kind=fault, checked=checked, registry=workshop)
    assert workshop.count() == before
    assert steps.apply("fault", adapter.ref, registry=workshop).kind == CHECKPOINT
