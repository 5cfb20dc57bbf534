"""Runs of the trainer from start to end: exactness, resuming, stopping, reports."""

from __future__ import annotations

import builtins
import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaMLP

from ftreg.core.errors import DataError, FtregError, InputError
from ftreg.core.recipe import NoConfig
from ftreg.core.signals import Terminated
from ftreg.core.types import NullProgress, Splits
from ftreg.plugins.methods import full, lora
from ftreg.plugins.methods.config import FullConfig, LoraConfig
from ftreg.training import fit, load_model
from ftreg.training.checkpoints import newest_checkpoint
from ftreg.training.weights import check_trained, fingerprint
from tests.training.jobs import CHATS, make_job

FULL, LORA = FullConfig(), LoraConfig(rank=4, alpha=8, dropout=0.1)


class Recorder(NullProgress):
    """A Progress that keeps what is reported, and does something at a step."""

    def __init__(self, at: int = -1, then=None) -> None:
        self.updates, self.said, self.begun, self.ended = [], [], [], 0
        self._at, self._then = at, then

    def begin(self, what, total=None, unit="steps"):
        self.begun.append((what, total))

    def update(self, done, **facts):
        if "loss" in facts:
            self.updates.append((done, facts))
            if done == self._at:
                self._then()

    def end(self):
        self.ended += 1

    def say(self, message):
        self.said.append(message)


def files(folder):
    """The bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def metrics(job):
    """The metrics that a run reported."""
    return json.loads((job.report / "metrics.json").read_text())


def raising(error):
    """A function that raises ``error``."""

    def act():
        raise error

    return act


@pytest.mark.parametrize(("method", "config"), [(full, FULL), (lora, LORA)], ids=["full", "lora"])
def test_same_seed_same_bytes(tmp_path, model_folder, method, config):
    """Two runs with one seed write the same bytes, and another seed does not."""
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        job = make_job(tmp_path / name, model_folder(), config, seed=seed)
        method.train(job)
        made.append(files(job.staging))
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize("batching", ["grouped", "random"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_resumed_run_makes_the_bytes_of_an_uninterrupted_one(tmp_path, model_folder, method, batching):
    """Killed in the second epoch and resumed, a run with dropout, evaluation and warm-up ends in the same bytes."""
    module, config = (full, FULL) if method == "full" else (lora, LORA)
    base = model_folder("gpt2")
    settings = {
        "validation": 4, "max_steps": 8, "batching": batching, "gradient_accumulation": 2, "batch_size": 2,
        "save_every": 3, "eval_every": 2, "warmup": 0.3, "early_stopping_patience": 9,
    }  # fmt: skip
    whole = make_job(tmp_path / "whole", base, config, **settings)
    module.train(whole)
    killed = replace(
        make_job(tmp_path / "killed", base, config, **settings), progress=Recorder(5, raising(RuntimeError("killed")))
    )
    with pytest.raises(RuntimeError, match="killed"):
        module.train(killed)
    assert newest_checkpoint(killed.scratch).name == "checkpoint-3"
    resumed = replace(killed, resume=True, progress=(recorder := Recorder()))
    module.train(resumed)
    assert [step for step, _ in recorder.updates] == [4, 5, 6, 7, 8]
    assert files(resumed.staging) == files(whole.staging)
    for key in ("step", "loss", "learning_rate", "tokens", "labelled_tokens"):
        expected, found = ([entry[key] for entry in metrics(job)["steps"]] for job in (whole, resumed))
        assert found == expected
    assert metrics(resumed)["evaluations"] == metrics(whole)["evaluations"]


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_a_signal_leaves_a_checkpoint_to_resume_from(tmp_path, model_folder, handlers, number, error):
    """Ctrl-C, SIGTERM or SIGHUP ends the run after its step, with a checkpoint; resumed, it ends in the same bytes."""
    whole = make_job(tmp_path / "whole", model_folder(), LORA, max_steps=6)
    lora.train(whole)
    before = signal.getsignal(number)
    recorder = Recorder(2, lambda: signal.raise_signal(number))
    job = replace(make_job(tmp_path / "job", model_folder(), LORA, max_steps=6), progress=recorder)
    with pytest.raises(error):
        lora.train(job)
    assert signal.getsignal(number) is before
    assert recorder.updates[-1][0] == 3
    assert newest_checkpoint(job.scratch).name == "checkpoint-3"
    assert not any(job.staging.iterdir())
    lora.train(replace(job, resume=True, progress=NullProgress()))
    assert files(job.staging) == files(whole.staging)


def test_second_ctrl_c_interrupts_at_once(tmp_path, model_folder, handlers):
    """After two Ctrl-C the run does not wait for its step."""

    def twice():
        # Unlike os.kill, this reaches this very thread at once, so that two are never taken for one.
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    recorder = Recorder(2, twice)
    with pytest.raises(KeyboardInterrupt):
        lora.train(replace(make_job(tmp_path, model_folder(), LORA, max_steps=6), progress=recorder))
    assert recorder.updates[-1][0] == 2
    assert recorder.ended >= 1


def test_gradient_accumulation_is_exact(tmp_path, model_folder):
    """Batches of 8 and two accumulated ones of 4, which label different numbers of tokens, train the same model."""
    weights = []
    for name, settings in (("8x1", {"batch_size": 8}), ("4x2", {"batch_size": 4, "gradient_accumulation": 2})):
        job = make_job(tmp_path / name, model_folder(), FULL, optimizer="sgd", learning_rate=0.5, **settings)
        full.train(job)
        weights.append(load_file(job.staging / "model.safetensors"))
        labelled = [entry["labelled_tokens"] for entry in metrics(job)["steps"]]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-6, rtol=1e-5)
    assert len(set(labelled)) > 1


def test_packed_and_grouped_learn_the_same_tokens(tmp_path, model_folder):
    """Over an epoch, packed batches hold as many tokens and labels as grouped ones, in fewer rows."""
    figures = {}
    for batching in ("grouped", "packed"):
        job = make_job(tmp_path / batching, model_folder(), FULL, batching=batching, max_steps=None, max_length=256)
        figures[batching] = full.train(job).measured
    for key in ("tokens", "labelled_tokens"):
        assert figures["packed"][key] == figures["grouped"][key]
    assert figures["packed"]["steps"] < figures["grouped"]["steps"]


@pytest.mark.parametrize("config", [FULL, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing(tmp_path, model_folder, config, monkeypatch):
    """Activations are computed a second time, and the gradients are the same, for frozen bases too."""
    method = full if config is FULL else lora
    forward, calls = LlamaMLP.forward, []
    monkeypatch.setattr(LlamaMLP, "forward", lambda *arguments: calls.append(1) or forward(*arguments))
    weights, counts = [], []
    for on in (False, True):
        job = make_job(tmp_path / str(on), model_folder(), config, gradient_checkpointing=on)
        method.train(job)
        weights.append(load_file(next(job.staging.glob("*.safetensors"))))
        counts.append(len(calls))
        calls.clear()
    assert counts[1] - counts[0] == 3 * 2  # steps x layers
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-5, rtol=1e-4)


def test_early_stopping_keeps_the_best(tmp_path, model_folder):
    """A run that overfits stops early, and its result has the best validation loss, not the last."""
    job = make_job(
        tmp_path, model_folder(), FULL, max_steps=60, eval_every=1, early_stopping_patience=3, schedule="constant",
        learning_rate=2e-2,
    )  # fmt: skip
    job = replace(job, data=Splits(train=CHATS[:4], validation=CHATS[4:6]))
    measured = full.train(job).measured
    evaluations = metrics(job)["evaluations"]
    losses = [entry["loss"] for entry in evaluations]
    assert measured["stopped"] == "early stopping"
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 1 - 3
    assert measured["best_validation_loss"] == min(losses) < losses[-1] == measured["final_validation_loss"]
    assert measured["best_validation_step"] == losses.index(min(losses)) + 1
    again = make_job(tmp_path / "again", job.staging, NoConfig(), max_steps=1, learning_rate=1e-9, eval_every=1)
    again = replace(again, data=job.data)
    found = fit(again, load_model(again))["final_validation_loss"]
    assert found == pytest.approx(min(losses), abs=1e-5)


def test_divergence_stops_at_once(tmp_path, model_folder):
    """A loss that is not finite ends the run at its step, with advice, and without a checkpoint."""
    model = load_model(job := make_job(tmp_path, model_folder(), NoConfig(), max_steps=9, save_every=1))
    model.lm_head.register_forward_hook(
        lambda module, _, logits: logits * float("nan") if module.training and logits.requires_grad else logits
    )
    with pytest.raises(FtregError, match="nan at step 1") as caught:
        fit(job, model)
    assert "learning_rate" in caught.value.hint
    assert not list(job.scratch.glob("checkpoint-*"))


def test_broken_gradients_stop_at_once(tmp_path, model_folder):
    """Gradients that are not finite end the run at their step, even if the loss was finite."""
    job = make_job(tmp_path, model_folder(), NoConfig(), max_steps=9)
    model = load_model(job)
    model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FtregError, match="gradients' norm is inf at step 1"):
        fit(job, model)


def test_infinite_weights_are_refused(tmp_path, model_folder):
    """Weights that are not finite are an error with their names."""
    model = load_model(make_job(tmp_path, model_folder(), NoConfig()))
    before = fingerprint(model)
    with torch.no_grad():
        model.lm_head.weight[3, 4] = float("inf")
    with pytest.raises(FtregError, match=r"not finite: lm_head\.weight"):
        check_trained(model, before)


def test_training_that_changes_nothing_is_refused(tmp_path, model_folder):
    """A result that would be the base itself is an error."""
    job = make_job(tmp_path, model_folder(), NoConfig(), max_steps=1, learning_rate=1e-30, optimizer="sgd")
    with pytest.raises(FtregError, match="changed no weight"):
        fit(job, load_model(job))


def test_evaluation_leaves_training_alone(tmp_path, model_folder):
    """How often a run evaluates does not change what it trains, dropout included."""
    made = []
    for every in (1, 3):
        job = make_job(tmp_path / str(every), model_folder("gpt2"), LORA, validation=4, eval_every=every)
        lora.train(job)
        made.append((files(job.staging), [entry["step"] for entry in metrics(job)["evaluations"]]))
    assert made[0][0] == made[1][0]
    assert (made[0][1], made[1][1]) == ([1, 2, 3], [3])


def test_progress_and_report(tmp_path, model_folder, capfd):
    """Each step is reported; the report has curves, totals and a picture; the libraries print nothing."""
    recorder = Recorder()
    job = replace(make_job(tmp_path, model_folder(), LORA, validation=4, max_steps=4), progress=recorder)
    capfd.readouterr()
    measured = lora.train(job).measured
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert recorder.begun[-1] == ("train", 4)
    assert [step for step, _ in recorder.updates] == [1, 2, 3, 4]
    assert recorder.updates[-1][1].keys() == {"loss", "lr", "validation", "tokens/s"}
    report = metrics(job)
    assert report["totals"] == measured
    steps = report["steps"]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]
    assert sum(entry["tokens"] for entry in steps) == measured["tokens"] > measured["labelled_tokens"] > 0
    assert measured["tokens_per_second"] == pytest.approx(measured["tokens"] / measured["seconds"], rel=0.01)
    assert measured["final_training_loss"] == steps[-1]["loss"]
    assert measured["stopped"] == "completed"
    assert measured["peak_rss_bytes"] > 50e6
    assert report["evaluations"][-1]["loss"] == measured["final_validation_loss"]
    assert (job.report / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_picture(tmp_path, model_folder, monkeypatch):
    """Without matplotlib, the run goes on and says so."""
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    job = replace(make_job(tmp_path, model_folder(), LORA), progress=(recorder := Recorder()))
    lora.train(job)
    assert any("matplotlib" in line for line in recorder.said)
    assert {path.name for path in job.report.iterdir()} == {"metrics.json"}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_and_optimizers_learn(tmp_path, model_folder, precision, optimizer):
    """Every optimizer lowers the loss in either precision, and full training keeps float32 weights."""
    job = make_job(tmp_path, model_folder(), FULL, max_steps=10, precision=precision, optimizer=optimizer)
    measured = full.train(job).measured
    losses = [entry["loss"] for entry in metrics(job)["steps"]]
    assert losses[-1] < losses[0] - 0.5
    assert measured["precision"] == precision
    assert {tensor.dtype for tensor in load_file(job.staging / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "fp16 training needs a CUDA device"),
        ({"early_stopping_patience": 2}, "needs validation examples"),
        *([] if torch.cuda.is_available() else [({"device": "cuda"}, "this machine has no cuda device")]),
    ],
)
def test_impossible_settings_are_input_errors(tmp_path, model_folder, settings, message):
    """Settings that the device or the data does not allow are errors before the first step."""
    with pytest.raises(InputError, match=message):
        lora.train(make_job(tmp_path, model_folder(), LORA, **settings))


def test_empty_data_is_refused(tmp_path, model_folder):
    """No examples, or none with a labelled token in the first max_length, are an error of the data."""
    job = make_job(tmp_path, model_folder(), LORA)
    with pytest.raises(DataError, match="no training examples"):
        lora.train(replace(job, data=Splits(train=())))
    short = job.train.model_copy(update={"max_length": 8})
    with pytest.raises(DataError, match="nothing is left to train on"):
        lora.train(replace(job, train=short, data=Splits(train=CHATS[:1])))


def test_frozen_model_is_refused(tmp_path, model_folder):
    """A model without trainable parameters is an error, not a run that does nothing."""
    job = make_job(tmp_path, model_folder(), NoConfig())
    with pytest.raises(FtregError, match="nothing to train"):
        fit(job, load_model(job).requires_grad_(False))


def test_fingerprint_sees_every_change(model_folder, tmp_path):
    """The smallest change of one number changes the fingerprint of its tensor."""
    model = load_model(make_job(tmp_path, model_folder(), NoConfig()))
    before = fingerprint(model)
    weight = model.lm_head.weight
    with torch.no_grad():
        weight[7, 3] = torch.nextafter(weight[7, 3], torch.tensor(9.0))
    changed = {name for name, sums in fingerprint(model).items() if sums != before[name]}
    assert changed == {"lm_head.weight"}
