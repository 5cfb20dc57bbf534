"""Distillation: the loss against a plain computation, the teacher left as it was, and runs that are resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers

from ftreg.core.errors import InputError
from ftreg.core.recipe import DistillationConfig, ObjectiveConfig
from ftreg.core.types import NullProgress
from ftreg.data import IGNORED
from ftreg.plugins.methods import lora
from ftreg.plugins.methods.config import LoraConfig
from ftreg.training.batches import pack_rows
from ftreg.training.checkpoints import newest_checkpoint
from ftreg.training.objectives.distillation import Distillation
from tests.post.helpers import make_source
from tests.tiny import make_model
from tests.training.jobs import make_job
from tests.training.losses import COLLATOR, ROWS, gradients, load, with_lora, with_prefix


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    """Another model with the same vocabulary, and a wider distribution than an untrained one's."""
    folder = make_model(tmp_path_factory.mktemp("teacher"), num_hidden_layers=1, seed=3)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.save_pretrained(folder)
    return folder


def settings(**given) -> DistillationConfig:
    """The settings of an objective; what names the teacher is not read where a model is given."""
    return DistillationConfig(teacher="teacher:1", **given)


def plain_loss(student, teacher, rows, config, width=None) -> dict[str, torch.Tensor]:
    """The loss and its parts, of each row by itself: plain models, all logits, and the definition of the divergence."""
    parts = {"label_loss": torch.zeros(()), "divergence": torch.zeros(())}
    for row in rows:
        ids = torch.tensor([row.input_ids])
        targets = torch.tensor(row.targets)
        at = targets != IGNORED
        logits = student(input_ids=ids).logits[0, at]
        with torch.no_grad():
            taught = teacher(input_ids=ids).logits[0, at]
        parts["label_loss"] = parts["label_loss"] - logits.log_softmax(-1)[range(len(logits)), targets[at]].sum()
        s = (logits[:, :width] / config.temperature).softmax(-1)
        t = (taught[:, :width] / config.temperature).softmax(-1)
        given = t * (t.log() - s.log()) if config.divergence == "forward" else s * (s.log() - t.log())
        parts["divergence"] = parts["divergence"] + config.temperature**2 * given.sum()
    weight = config.label_weight
    return {"total": weight * parts["label_loss"] + (1 - weight) * parts["divergence"], **parts}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "config",
    [
        {"temperature": 2.0, "label_weight": 0.3},
        {"temperature": 1.0, "label_weight": 0.0},
        {"temperature": 3.0, "label_weight": 0.5, "divergence": "reverse"},
        {"temperature": 1.0, "label_weight": 0.0, "divergence": "reverse"},
    ],
    ids=["forward", "forward-alone", "reverse", "reverse-alone"],
)
def test_the_loss_is_that_of_a_plain_computation(model_folder, teacher_folder, config, packed):
    """Loss, parts and gradients are those of two plain models and the definitions, for every way of batching."""
    config = settings(**config)
    student, teacher = load(model_folder(), use_cache=False), load(teacher_folder, use_cache=False)
    objective = Distillation(student, teacher, config)
    objective.check(ROWS, COLLATOR, packed=packed)
    assert objective.facts() == {"logits": "labelled positions", "teacher_logits": "labelled positions"}
    batch = COLLATOR(pack_rows(ROWS, 32) if packed else ROWS)
    expected, found = plain_loss(student, teacher, ROWS, config), objective.loss(student, batch)
    count = objective.count(batch)
    assert found.total.item() / count == pytest.approx(expected["total"].item() / count, abs=1e-5)
    for name, value in found.figures.items():
        assert value.item() / count == pytest.approx(expected[name].item() / count, abs=1e-5)
    assert found.figures.keys() == {"label_loss", "divergence"}
    expected, found = gradients(student, expected["total"]), gradients(student, found.total)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


def test_the_teacher_is_no_further_from_itself(teacher_folder):
    """A model does not diverge from itself, in either direction."""
    for divergence in ("forward", "reverse"):
        model = load(teacher_folder, use_cache=False)
        objective = Distillation(model, load(teacher_folder), settings(divergence=divergence, label_weight=0))
        assert objective.loss(model, COLLATOR(ROWS)).total.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("wrap", [with_lora, with_prefix], ids=["lora", "prefix"])
def test_adapters_teach_and_are_taught(model_folder, teacher_folder, wrap):
    """A student and a teacher with adapters have the plain loss, and the teacher is left without gradients."""
    student, teacher = wrap(load(model_folder(), use_cache=False)), wrap(load(teacher_folder, use_cache=False))
    objective = Distillation(student, teacher.train(), config := settings())
    objective.check(ROWS, COLLATOR, packed=False)
    batch = COLLATOR(ROWS)
    found = objective.loss(student, batch).total
    assert found.item() == pytest.approx(plain_loss(student, teacher, ROWS, config)["total"].item(), rel=1e-5)
    found.backward()
    assert not teacher.training
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())


def test_a_padded_head(model_folder, tmp_path):
    """What only one head has, such as padding to a multiple, is left out of the divergence, not of the labels' loss."""
    student = load(model_folder(), use_cache=False)
    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    teacher = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=384, **sizes)).eval()
    expected = plain_loss(student, teacher, ROWS, config := settings(), width=320)
    assert Distillation(student, teacher, config).loss(student, COLLATOR(ROWS)).total.item() == pytest.approx(
        expected["total"].item(), rel=1e-5
    )


def test_packing_is_refused_if_the_teacher_mixes_examples(model_folder, teacher_folder):
    """Packed rows in which the teacher would see several examples at once are refused, and the error names it."""
    teacher = with_prefix(load(teacher_folder, use_cache=False))
    objective = Distillation(load(model_folder(), use_cache=False), teacher, settings())
    with pytest.raises(InputError, match="attend to each other in the teacher"):
        objective.check(ROWS, COLLATOR, packed=True)


class Killed(NullProgress):
    """A progress that ends the run after a step."""

    def __init__(self, at: int) -> None:
        self._at = at

    def update(self, done, **facts):
        if "loss" in facts and done == self._at:
            raise RuntimeError("killed")


def test_a_resumed_run_makes_the_bytes_of_an_uninterrupted_one(tmp_path, model_folder, teacher_folder):
    """Killed and resumed, a run with a teacher ends in the same bytes, figures of its steps and evaluations."""
    run = {"validation": 4, "max_steps": 5, "save_every": 2, "eval_every": 2, "gradient_accumulation": 2}
    teaching = {
        "objective": ObjectiveConfig(distillation=settings(temperature=1.5)),
        "models": {"teacher": make_source(teacher_folder)},
    }

    def job(name, **more):
        return replace(
            make_job(tmp_path / name, model_folder(), LoraConfig(rank=4, dropout=0.1), **run), **teaching, **more
        )

    lora.train(whole := job("whole"))
    with pytest.raises(RuntimeError, match="killed"):
        lora.train(killed := job("killed", progress=Killed(3)))
    assert newest_checkpoint(killed.scratch).name == "checkpoint-2"
    lora.train(replace(killed, resume=True, progress=NullProgress()))
    for path in whole.staging.iterdir():
        assert (killed.staging / path.name).read_bytes() == path.read_bytes(), path.name
    reports = [json.loads((each.report / "metrics.json").read_text()) for each in (whole, killed)]
    for key in ("loss", "label_loss", "divergence"):
        expected, found = ([entry[key] for entry in report["steps"]] for report in reports)
        assert found == expected
    assert reports[0]["evaluations"] == reports[1]["evaluations"]
    last = reports[0]["evaluations"][-1]
    assert last["loss"] == pytest.approx(0.5 * last["label_loss"] + 0.5 * last["divergence"], rel=1e-6)
    assert reports[0]["totals"]["final_validation_divergence"] == last["divergence"]
    step = reports[0]["steps"][-1]
    assert step["loss"] == pytest.approx(0.5 * step["label_loss"] + 0.5 * step["divergence"], rel=1e-4)
