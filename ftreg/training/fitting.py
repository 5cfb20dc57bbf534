"""Fitting: a training run from its examples to its figures, the same for every method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import Json
from ftreg.core.signals import Interruption
from ftreg.core.types import TrainJob
from ftreg.models.quiet import quiet
from ftreg.training.batches import Collator, encode_rows, pack_rows
from ftreg.training.checkpoints import newest_checkpoint
from ftreg.training.checks import check_settings
from ftreg.training.loading import load_encoder, resolve_precision
from ftreg.training.milestones import Milestones
from ftreg.training.objectives import load_objective
from ftreg.training.report import peak_memory, split_history, totals, write_report
from ftreg.training.trainer import LanguageTrainer
from ftreg.training.weights import check_trained, fingerprint, trainable


def fit(job: TrainJob, model: Any) -> dict[str, Json]:
    """Train ``model`` as the job says; write ``metrics.json`` and ``loss.png`` into its ``report`` folder.

    The parameters that require gradients are trained towards ``job.objective``. Ctrl-C, SIGTERM and SIGHUP end the run
    after the running step, with a checkpoint in ``job.scratch``; a second Ctrl-C or SIGTERM ends it at once. A run that
    is killed has its last regular checkpoint there (``train.save_every``). ``job.resume`` goes on from the newest one:
    on a CPU, to the very bytes that the uninterrupted run would have made.

    Args:
        job: The job.
        model: A causal language model of transformers, or one wrapped by PEFT, as ``load_model`` loads it.

    Returns:
        The figures of the run, which ``metrics.json`` holds as ``totals``: those of ``report.totals``, peak memory,
        ``trained_tensors``, ``changed_tensors`` and ``trained_parameters``, ``stopped`` (``completed`` or ``early
        stopping``), and what the run used: ``logits``, ``batching``, ``device``, ``precision``; with a teacher also
        ``teacher_logits``.

    Raises:
        InputError: The settings cannot be used with this data, device or model, a model of the objective cannot be
            loaded, or there is nothing to resume.
        DataError: The data cannot be encoded, or has no labelled token.
        FtregError: Training diverged, or changed nothing.
        KeyboardInterrupt: Ctrl-C; for SIGTERM and SIGHUP ``Terminated``, which derives from it. A checkpoint was
            written.
    """
    _check(job, model)
    encoder = load_encoder(job)
    collator = Collator(encoder.tokenizer.pad_token_id or 0)
    objective = load_objective(job, model)
    with quiet(), _ready_to_train(job, model):
        rows = encode_rows(encoder, job.data.train, job.progress)
        eval_rows = encode_rows(encoder, job.data.validation, job.progress)
        packed = job.train.batching == "packed"
        objective.check(rows, collator, packed=packed)
        if packed:
            rows = pack_rows(rows, job.train.max_length)
        interruption = Interruption()
        milestones = Milestones(
            job.train,
            evaluates=bool(eval_rows),
            best=job.scratch / "best.safetensors",
            interruption=interruption,
        )
        trainer = LanguageTrainer(
            model,
            train=job.train,
            precision=resolve_precision(job.train),
            train_rows=rows,
            eval_rows=eval_rows,
            collator=collator,
            objective=objective,
            milestones=milestones,
            scratch=job.scratch,
            progress=job.progress,
        )
        before = fingerprint(model)
        _run(job, trainer, interruption)
        milestones.restore_best(model)
        changes = check_trained(model, before)
    steps, evaluations = split_history(trainer.state.log_history)
    measured: dict[str, Json] = {
        **totals(steps, evaluations),
        **peak_memory(model.device),
        **changes,
        "stopped": milestones.stopped,
        "trained_parameters": sum(weight.numel() for weight in trainable(model).values()),
        **objective.facts(),
        "batching": job.train.batching,
        "device": model.device.type,
        "precision": resolve_precision(job.train),
    }
    write_report(job.report, job.name, steps, evaluations, measured, job.progress)
    return measured


def _check(job: TrainJob, model: Any) -> None:
    """Raise for a job that cannot be trained."""
    check_settings(job.train, job.data)
    if not trainable(model):
        raise FtregError("there is nothing to train: no parameter of the model requires gradients")


@contextlib.contextmanager
def _ready_to_train(job: TrainJob, model: Any) -> Iterator[None]:
    """While this lasts, the model keeps no cache and, if the job says so, recomputes activations; then eval mode."""
    use_cache = model.config.use_cache
    model.config.use_cache = False
    if job.train.gradient_checkpointing:
        model.activation_checkpointing_enable()
    try:
        yield
    finally:
        model.config.use_cache = use_cache
        if job.train.gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.eval()


def _run(job: TrainJob, trainer: LanguageTrainer, interruption: Interruption) -> None:
    """Train, from the newest checkpoint if the job says so; raise what a signal in between meant."""
    checkpoint = newest_checkpoint(job.scratch) if job.resume else None
    if job.resume and checkpoint is None:
        raise InputError("there is no checkpoint to resume from", where=str(job.scratch), hint="Leave `resume` out.")
    job.progress.begin("train", trainer.steps_in_all)
    try:
        with interruption.postponed():
            trainer.run(checkpoint)
    finally:
        job.progress.end()
    interruption.act()
