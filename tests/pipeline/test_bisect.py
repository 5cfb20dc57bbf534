"""Bisection: the step that lost the quality of a chain is named, and none is in a chain that lost nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftreg import Registry, apply, bisect, merge
from ftreg.cli.main import main
from ftreg.core.errors import InputError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.recipe import Config
from ftreg.core.specs import StepSpec
from ftreg.core.types import CHECKPOINT, Artifact, StepJob, Version
from tests.pipeline.conftest import QUESTIONS, THINGS


class Scale(Config):
    """Settings of the step below."""

    factor: float = 1.0


def scale_layer(job: StepJob) -> Artifact:
    """Copy the source with one matrix scaled; a factor of 1 makes the same model, in a file with another header."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(job.source.path, job.staging, dirs_exist_ok=True, copy_function=shutil.copyfile)
    path = job.staging / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name] * job.config.factor
    path.chmod(0o644)
    save_file(weights, path, {"format": "pt", "from": job.source.digest})
    return Artifact(kind=CHECKPOINT)


class _Scale:
    @hookimpl
    def ftreg_steps(self) -> list[StepSpec]:
        impl, config = f"{__name__}:scale_layer", f"{__name__}:Scale"
        return [StepSpec(name="scale", summary="Scale.", impl=impl, config=config)]


@pytest.fixture(scope="module")
def workshop(registry: Registry) -> Iterator[Registry]:
    """Open the pipeline tests' registry with the step that scales a layer."""
    host = PluginHost()
    host.register(_Scale())
    with Registry(registry.home, host=host) as opened:
        yield opened


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the twenty questions in a file of their own."""
    path = tmp_path_factory.mktemp("held-out") / "questions.jsonl"
    rows = [
        {"prompt": question.format(thing), "response": f"{thing} is {colour}"}
        for thing, colour in THINGS.items()
        for question in QUESTIONS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chain(registry: Registry, adapter: Version, factors: list[float], name: str) -> list[Version]:
    """Merge the adapter, and scale a layer by each factor in turn."""
    versions = [merge(adapter.ref, registry=registry)]
    for number, factor in enumerate(factors, start=1):
        versions.append(apply("scale", versions[-1].ref, name=f"{name}-{number}", factor=factor, registry=registry))
    return versions


def test_the_planted_fault_of_six_is_named(workshop: Registry, adapter: Version, held_out: Path) -> None:
    """Of six steps, the one that scaled a layer is named; the one after it inherits the loss and is not."""
    versions = chain(workshop, adapter, [1.0, 20.0, 1.0], "faulty")
    found = bisect(versions[-1].ref, held_out, registry=workshop)
    assert found.culprit == "faulty-2:1"
    assert [link.ref for link in found.links if link.lost] == ["faulty-2:1"]
    measured = [link for link in found.links if link.figure is not None]
    assert len(measured) == 7  # the imported base, the trained one, the adapter, and four of the chain
    assert [link.made_by for link in measured][-2:] == ["step scale", "step scale"]
    (lost,) = [link for link in found.links if link.lost]
    assert lost.interval is not None
    assert lost.change is not None
    assert 0 < lost.interval[0] <= lost.change <= lost.interval[1]
    assert found.plot is not None
    assert found.plot.read_bytes().startswith(b"\x89PNG")
    (record,) = [record for record in workshop.evidence(versions[-1].ref) if record.type == "bisection"]
    assert record.body["culprit"] == "faulty-2:1"


def test_no_step_of_a_clean_chain_is_named(workshop: Registry, adapter: Version, held_out: Path) -> None:
    """Training and steps that keep the quality are not suspected, and evaluations on record are used."""
    versions = chain(workshop, adapter, [1.0, 1.0, 1.0], "clean")
    found = bisect(versions[-1].ref, held_out, registry=workshop)
    assert found.culprit is None
    assert not any(link.lost for link in found.links)
    assert found.confidence == pytest.approx(1 - 0.05 / 6)
    records = {ref: len(workshop.evidence(ref)) for ref in (link.ref for link in found.links[:-1])}
    bisect(versions[-1].ref, held_out, registry=workshop)
    assert {ref: len(workshop.evidence(ref)) for ref in records} == records


def test_a_score_is_compared_like_a_loss(workshop: Registry, adapter: Version, held_out: Path) -> None:
    """For a figure of which more is better, a fall is the loss; what cannot be a figure is refused."""
    versions = chain(workshop, adapter, [20.0], "scored")
    for metric in ("token_accuracy", "token_f1"):
        found = bisect(versions[-1].ref, held_out, metric=metric, registry=workshop)
        assert found.higher_is_better
        assert found.culprit == "scored-1:1"
    with pytest.raises(UnknownName, match="no metric named 'los'"):
        bisect(versions[-1].ref, held_out, metric="los", registry=workshop)
    with pytest.raises(InputError, match="does not say which model is better"):
        bisect(versions[-1].ref, held_out, metric="length", registry=workshop)
    with pytest.raises(InputError, match="has no score for each answer"):
        bisect(versions[-1].ref, held_out, metric="token_f1.recall", registry=workshop)


def test_what_cannot_be_bisected_is_refused(workshop: Registry, base: Version, held_out: Path) -> None:
    """A dataset, a version without ancestors, and a single example are refused."""
    with pytest.raises(InputError, match=r"is a dataset, not a model"):
        bisect(str(base.manifest.parent("dataset")), held_out, registry=workshop)
    with pytest.raises(InputError, match=r"nothing that .* was made from can be measured"):
        bisect(workshop.get(str(base.manifest.parent("base"))).ref, held_out, registry=workshop)
    with pytest.raises(InputError, match="one example"):
        bisect(base.ref, held_out, limit=1, registry=workshop)


def test_the_command(workshop: Registry, adapter: Version, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a table in the order of the chain, and the verdict."""
    with pytest.raises(SystemExit) as end:
        main(["--home", str(workshop.home), "bisect", adapter.ref, "--data", str(held_out)])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.index("import base") < shown.index("method full") < shown.index("method lora")
    assert "no step lost 0.01 or more" in shown
