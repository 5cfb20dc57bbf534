"""Distillation through the registry: lineage, checks, replay, reuse, resuming, and what is gained by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftreg import Registry, bisect, distill, lineage, replay, run, train
from ftreg.api.training import preview, training_figures
from ftreg.cli.main import main
from ftreg.core.errors import FtregError, InfeasiblePlan, InputError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.specs import MethodSpec
from ftreg.core.types import NullProgress, Source, Version
from ftreg.data import Encoder, read_dataset
from ftreg.models.inference import load_version
from ftreg.models.tokenizer import load_tokenizer
from ftreg.pipeline.model_card import model_card
from ftreg.training.batches import Collator, encode_rows
from tests.tiny import make_model

ENOUGH = {"max_steps": 25, "learning_rate": 5e-3, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of an untrained model with one layer."""
    return str(make_model(tmp_path_factory.mktemp("model") / "small", num_hidden_layers=1, seed=5))


@pytest.fixture(scope="module")
def teacher(registry: Registry, rows: Path, model_folder: Callable[..., Path]) -> Version:
    """Train a teacher for so few steps that it is not sure of anything."""
    return train(
        {
            "name": "teacher",
            "base": str(model_folder()),
            "data": {"path": str(rows), "validation": 0.1, "test": 0.2, "stratify_by": "thing"},
            "method": "full",
            "train": {"max_steps": 15, "learning_rate": 3e-3, "batch_size": 8, "device": "cpu"},
        },
        registry=registry,
    )


@pytest.fixture(scope="module")
def distilling(teacher: Version, rows: Path, student: str) -> Callable[..., dict]:
    """Return a function that makes a recipe for the student with the teacher, and with changes."""

    def make(name: str, objective: dict | None = None, **changes: object) -> dict:
        return {
            "name": name,
            "base": student,
            "data": {"path": str(rows), "validation": 0.1, "test": 0.2, "stratify_by": "thing"},
            "method": "full",
            "objective": {"distillation": {"teacher": teacher.ref, "label_weight": 0.0, **(objective or {})}},
            "train": {"max_steps": 2, "learning_rate": 5e-3, "batch_size": 8, "device": "cpu"},
            **changes,
        }

    return make


@pytest.fixture(scope="module")
def distilled(registry: Registry, distilling: Callable[..., dict]) -> Version:
    """Train the student on the teacher."""
    return train(
        distilling("distilled", train={"max_steps": 25, "learning_rate": 5e-3, "batch_size": 8}), registry=registry
    )


def distance(teacher: Source, student: Source, dataset: Source) -> float:
    """Return the mean KL of a student from a teacher at the labelled tokens of held-out rows, in nats per token."""
    batch = Collator(0)(
        encode_rows(Encoder(load_tokenizer(teacher.path), max_length=64), read_dataset(dataset.path).test)
    )
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        one, other = (
            load_version(each, "cpu")(**inputs).logits.flatten(0, 1)[batch["labelled"]].log_softmax(-1)
            for each in (teacher, student)
        )
    return float((one.exp() * (one - other)).sum(-1).mean())


def test_a_student_gets_nearer_to_its_teacher_than_by_labels(
    registry: Registry, distilled: Version, teacher: Version, distilling: Callable[..., dict]
) -> None:
    """On held-out rows, the same training with the labels alone ends further from the teacher."""
    raw = distilling("labelled", train=ENOUGH)
    del raw["objective"]
    labelled = train(raw, registry=registry)
    dataset = registry.source(str(distilled.manifest.parent("dataset")))
    found = [
        distance(registry.source(teacher.ref), registry.source(each.ref), dataset) for each in (distilled, labelled)
    ]
    assert found[0] < 0.2 * found[1]
    assert "objective" not in labelled.manifest.producer.config
    assert [parent.role for parent in labelled.manifest.parents] == ["base", "dataset"]


def test_the_lineage_has_the_teacher(registry: Registry, distilled: Version, teacher: Version) -> None:
    """Base, teacher and dataset are parents in this order; the settings are on record, the teacher's name is not."""
    assert [parent.role for parent in distilled.manifest.parents] == ["base", "teacher", "dataset"]
    assert distilled.manifest.parent("teacher") == teacher.digest
    assert distilled.manifest.producer.config["objective"] == {
        "distillation": {"temperature": 2.0, "divergence": "forward", "label_weight": 0.0}
    }
    edges = {edge.role: edge.parent for edge in lineage(distilled.ref, registry=registry).parents(distilled.digest)}
    assert edges["teacher"] == teacher.digest


def test_the_card_names_the_teacher_but_not_as_a_base(registry: Registry, distilled: Version, teacher: Version) -> None:
    """The card has the teacher's role and the settings; only the student's own origin is a base model of the Hub's."""
    registry.add_evidence(teacher.digest, "import", {"uri": "hf:org/teacher@main"})
    card = model_card(registry, distilled)
    assert f"| {teacher.ref} | teacher | checkpoint |" in card
    assert "label_weight: 0.0" in card
    assert "base_model" not in card
    registry.add_evidence(str(distilled.manifest.parent("base")), "import", {"uri": "hf:org/student@main"})
    assert "base_model: org/student\n" in model_card(registry, distilled)


def test_a_bisection_follows_the_student(registry: Registry, distilled: Version) -> None:
    """The chain of a distilled version leads to what it was before, not to its teacher."""
    assert [link.ref for link in bisect(distilled.ref, registry=registry).links] == ["small:1", distilled.ref]


def test_the_figures_have_the_parts_of_the_loss(registry: Registry, distilled: Version) -> None:
    """Each evaluation and each step has the loss, the labels' loss and the divergence; so have the figures."""
    (record,) = [record for record in registry.evidence(distilled.digest) if record.type == "run"]
    metrics = json.loads(record.files["metrics.json"].read_text())
    for entry in (*metrics["steps"], *metrics["evaluations"]):
        assert entry["loss"] == pytest.approx(entry["divergence"], rel=1e-5)
        assert entry["label_loss"] > 0
    assert metrics["evaluations"][-1]["divergence"] < metrics["evaluations"][0]["divergence"]
    figures = training_figures(distilled.ref, registry=registry)
    assert figures is not None
    last = metrics["evaluations"][-1]
    assert figures.validation_parts == {key: last[key] for key in ("label_loss", "divergence")}


def test_an_adapter_teaches_and_the_work_is_repeatable(
    registry: Registry, adapter: Version, distilling: Callable[..., dict]
) -> None:
    """With an adapter over its base as teacher, and a LoRA as student, a replay is bit-exact."""
    version = train(distilling("by-adapter", {"teacher": adapter.ref}, method="lora"), registry=registry)
    assert version.manifest.parent("teacher") == adapter.digest
    found = replay(version.ref, registry=registry)
    assert (found.grade, found.replayed, found.reasons) == ("bit-exact", version.digest, ())


def test_a_deleted_teacher_is_kept_for_its_student(
    student: str, rows: Path, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A folder teaches too, and is imported; deleted and collected, it is still there for a replay of the student."""
    with Registry(tmp_path / "home", host=PluginHost(only=())) as registry:
        settings = {"train.max_steps": 1, "data.validation": 0.0}
        version = distill(student, str(model_folder()), rows, method="lora", settings=settings, registry=registry)
        assert version.ref == "small-distilled:1"
        given = registry.get(str(version.manifest.parent("teacher")))
        registry.delete(given.ref, force=True)
        registry.gc(grace=0)
        assert given.digest in lineage(version.ref, registry=registry).deleted
        assert replay(version.ref, registry=registry).grade == "bit-exact"


def test_the_same_distillation_is_reused(registry: Registry, distilling: Callable[..., dict]) -> None:
    """A recipe that ran before is not run again; with another temperature, it is."""
    quick = {
        "method": "lora",
        "train": {"max_steps": 1, "device": "cpu"},
        "then": [{"merge": {"name": "reused-merged"}}],
    }
    first = run(distilling("reused", **quick), registry=registry)
    assert [version.ref for version in first] == ["reused:1", "reused-merged:1"]
    again = run(distilling("reused", **quick), registry=registry)
    assert [version.ref for version in again] == ["reused:1", "reused-merged:1"]
    changed = train(distilling("reused", {"temperature": 4}, **quick), registry=registry)
    assert changed.digest != first[0].digest


class Killed(NullProgress):
    """A progress that ends the run after its first step."""

    def update(self, done: int, **facts: float | str) -> None:
        if "loss" in facts:
            raise RuntimeError("killed")


def test_an_interrupted_distillation_is_resumed(registry: Registry, distilling: Callable[..., dict]) -> None:
    """The checkpoints of a run belong to its teacher too, and the resumed run makes the same version."""
    settings = {"max_steps": 3, "save_every": 1, "device": "cpu"}
    raw = distilling("resumed", method="lora", train=settings)

    class Later(Killed):
        def update(self, done: int, **facts: float | str) -> None:
            if done == 2:
                super().update(done, **facts)

    with pytest.raises(FtregError, match="killed"):
        train(raw, registry=registry, progress=Later())
    other = distilling("resumed", {"temperature": 3}, method="lora", train=settings)
    with pytest.raises(InputError, match="no interrupted run"):
        train(other, resume=True, registry=registry)
    resumed = train(raw, resume=True, registry=registry)
    assert train({**raw, "name": "whole"}, registry=registry).digest == resumed.digest


@pytest.fixture(params=["dry run", "run"])
def attempt(request: pytest.FixtureRequest, registry: Registry) -> Callable[[dict], object]:
    """Return a function that previews a recipe or trains as it says."""
    return lambda raw: (preview if request.param == "dry run" else train)(raw, registry=registry)


def test_a_teacher_must_fit(
    attempt: Callable[[dict], object],
    distilling: Callable[..., dict],
    model_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Before any work: a teacher must exist, be a causal language model or an adapter, and have the same tokens."""
    where = r"objective\.distillation\.teacher: "
    with pytest.raises(UnknownName, match=where + ".*nobody"):
        attempt(distilling("x", {"teacher": "nobody:1"}))
    with pytest.raises(InfeasiblePlan, match=where + "a teacher is a checkpoint or an adapter; colours"):
        attempt(distilling("x", {"teacher": "colours:1"}))
    folder = Path(shutil.copytree(model_folder(), tmp_path / "other"))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    said = where + r"teacher and base have different vocabularies: token 320 is missing in the base and '<\|new\|>' in"
    with pytest.raises(InfeasiblePlan, match=said):
        attempt(distilling("x", {"teacher": str(folder)}))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("LlamaForCausalLM", "BertForMaskedLM"))
    with pytest.raises(InputError, match="BertForMaskedLM is a masked language model"):
        attempt(distilling("x", {"teacher": str(folder)}))


class _Deaf:
    @hookimpl
    def ftreg_methods(self) -> list[MethodSpec]:
        return [MethodSpec(name="deaf", summary="Trains in its own way.", impl="tests.pipeline.echo:train")]


def test_a_method_must_follow_the_objective(registry: Registry, distilling: Callable[..., dict]) -> None:
    """A method that does not say that it does is refused: its result would not be what the recipe says."""
    host = PluginHost(only=())
    host.register(_Deaf())
    with (
        Registry(registry.home, host=host) as opened,
        pytest.raises(InfeasiblePlan, match="method deaf does not follow an objective"),
    ):
        preview(distilling("x", method="deaf"), registry=opened)


def call(registry: Registry, *arguments: str) -> None:
    """Run the command line in this process."""
    with pytest.raises(SystemExit) as end:
        main(["--home", str(registry.home), *arguments])
    assert not end.value.code


def test_the_command(
    registry: Registry, teacher: Version, student: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run shows what would be done; the run prints the loss with its parts, and the lineage has the teacher."""
    typed = [
        "distill",
        student,
        "--teacher",
        teacher.ref,
        "--data",
        str(rows),
        "--method",
        "lora",
        "--label-weight",
        "0.25",
    ]
    typed += ["--temperature", "1", "--divergence", "reverse", "--name", "typed", "--set", "train.max_steps=1"]
    call(registry, *typed, "--dry-run", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["objective"], shown["teacher"]) == ("distillation", f"{teacher.ref} {teacher.digest[:15]}")
    assert shown["distillation"] == {"temperature": 1.0, "divergence": "reverse", "label_weight": 0.25}
    call(registry, *typed)
    shown = capsys.readouterr().out
    assert "1 steps, training loss" in shown
    assert "parts of the validation loss: " in shown
    assert "ftreg merge typed:1" in shown
    assert registry.get("typed:1").manifest.parent("teacher") == teacher.digest
