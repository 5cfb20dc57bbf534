"""The trainer: transformers' own, with ftreg's batches, loss, schedule, evaluation and checkpoints."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader

from ftreg.compat.transformers import planned_steps, to_device, use_one_gpu
from ftreg.core.errors import FtregError
from ftreg.core.recipe import TrainConfig
from ftreg.core.types import Progress
from ftreg.training.batches import Batches, Collator, Row
from ftreg.training.checkpoints import UNFINISHED, commit_checkpoint, link_or_copy
from ftreg.training.milestones import Milestones
from ftreg.training.objectives.base import Objective
from ftreg.training.schedule import learning_rate_factor
from ftreg.training.weights import load_trainable, save_trainable

WEIGHTS = "trainable.safetensors"
"""File of a checkpoint that holds the trained weights."""

_OPTIMIZERS = {"adamw": "adamw_torch_fused", "sgd": "sgd", "adafactor": "adafactor"}


class LanguageTrainer(transformers.Trainer):
    """Trains a causal language model, adapters and quantized bases included.

    Args:
        model: The model; only its parameters that require gradients are trained and kept in checkpoints.
        train: The configuration.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        train_rows: Rows to train on.
        eval_rows: Rows to evaluate on; may be empty.
        collator: Turns rows into batches.
        objective: Computes the loss of a batch.
        milestones: Decides when to evaluate, to save and to stop.
        scratch: Folder for checkpoints.
        progress: Where to report progress.
    """

    control: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: Any,
        *,
        train: TrainConfig,
        precision: str,
        train_rows: Sequence[Row],
        eval_rows: Sequence[Row],
        collator: Collator,
        objective: Objective,
        milestones: Milestones,
        scratch: Path,
        progress: Progress,
    ) -> None:
        arguments = _arguments(train, precision, model.device, scratch)
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            callbacks=[milestones],
        )
        self.remove_callback(transformers.PrinterCallback)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by what the whole step counts
        self._train_config = train
        self._objective = objective
        self._milestones = milestones
        self._progress = progress
        self._batches = Batches(
            [len(row.input_ids) for row in train_rows],
            batch_size=train.batch_size,
            accumulation=train.gradient_accumulation,
            grouped=train.batching != "random",
            seed=train.seed,
        )
        self._counted: dict[str, int] = {}
        self._figures: dict[str, torch.Tensor] = {}
        self._started = 0.0

    @property
    def steps_in_all(self) -> int:
        """Optimizer steps of the whole run."""
        return planned_steps(self)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return batches in an order that depends on the seed and the epoch alone."""
        return _EpochLoader(self.train_dataset, batch_sampler=self._batches, collate_fn=self.data_collator)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """Return the batches of one step, and how many items the step's loss is a mean over."""
        self._started = time.perf_counter()
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self._counted = {
            "tokens": sum(batch["tokens"] for batch in batches),
            "labelled_tokens": sum(len(batch["targets"]) for batch in batches),
        }
        self._figures = {}
        return batches, torch.tensor(sum(map(self._objective.count, batches)), device=device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        _return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the batch's share of the step's mean loss, and add its shares of the further figures."""
        loss = self._objective.loss(model, inputs)
        for name, value in loss.figures.items():
            self._figures[name] = self._figures.get(name, 0.0) + value / num_items_in_batch
        return loss.total / num_items_in_batch

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the learning-rate scheduler, which is created once."""
        if self.lr_scheduler is None:
            schedule, warmup = self._train_config.schedule, self._train_config.warmup

            def factor(step: int) -> float:
                return learning_rate_factor(schedule, step, total=num_training_steps, warmup=warmup)

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def floating_point_ops(self, _inputs: dict[str, torch.Tensor]) -> int:
        """Return 0: nothing reads this figure, and counting visits all parameters at each step."""
        return 0

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the mean loss of the evaluation rows, and the objective's further figures, without keeping logits."""
        self.model.eval()
        rows = sorted(self.eval_dataset, key=lambda row: -len(row.input_ids))
        size = self._train_config.batch_size
        sums: dict[str, torch.Tensor] = {"loss": torch.zeros((), device=self.args.device)}
        count = 0
        for start in range(0, len(rows), size):
            batch = to_device(self, self.data_collator(rows[start : start + size]))
            count += self._objective.count(batch)
            loss = self._objective.loss(self.model, batch)
            for name, value in {"loss": loss.total, **loss.figures}.items():
                sums[name] = sums.get(name, 0.0) + value
        metrics = {f"eval_{name}": value.item() / max(1, count) for name, value in sums.items()}
        self._refuse_divergence("the validation loss is {}", metrics["eval_loss"])
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record a step and report its figures; raise ``FtregError`` if they are not finite."""
        if "loss" in logs:
            seconds = time.perf_counter() - self._started
            figures = {name: value.item() for name, value in self._figures.items()}
            logs |= {**self._counted, **figures, "seconds": round(seconds, 6)}
            self._refuse_divergence("the loss is {}", logs["loss"])
            if self.args.fp16 and not math.isfinite(logs["grad_norm"]):
                del logs["grad_norm"]  # the step was skipped: the loss scale was too high
            else:
                self._refuse_divergence("the gradients' norm is {}", logs["grad_norm"])
            facts: dict[str, float | str] = {"loss": logs["loss"], "lr": logs["learning_rate"]}
            if self._milestones.validation_loss is not None:
                facts["validation"] = self._milestones.validation_loss
            facts["tokens/s"] = logs["tokens"] / seconds
            self._progress.update(self.state.global_step, **facts)
        super().log(logs, start_time)

    def _refuse_divergence(self, what: str, value: float) -> None:
        """Raise ``FtregError`` for a figure that is not finite."""
        if not math.isfinite(value):
            raise FtregError(
                f"{what.format(value)} at step {self.state.global_step}: training has diverged",
                hint="Lower train.learning_rate or train.max_grad_norm, raise train.warmup, or set train.precision to "
                "fp32.",
            )

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end, or to an interruption, after which a checkpoint is written.

        Args:
            checkpoint: Where to go on from; if nothing is left to do after it, it is only loaded.
        """
        best = self._milestones.best
        best.unlink(missing_ok=True)
        if checkpoint is not None and (checkpoint / best.name).is_file():
            link_or_copy(checkpoint / best.name, best)
        if checkpoint is not None:
            state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if self._milestones.is_over(state):
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self._milestones.interrupted:
            self._save_checkpoint(self.model, trial=None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, complete and durable before it gets its name, with the best weights so far."""
        started = time.monotonic()
        unfinished = Path(self.args.output_dir)
        shutil.rmtree(unfinished, ignore_errors=True)
        super()._save_checkpoint(model, trial)
        best = self._milestones.best
        if best.is_file():  # it may be linked, because better weights replace the file
            link_or_copy(best, unfinished / f"checkpoint-{self.state.global_step}" / best.name)
        commit_checkpoint(unfinished.parent, self.state.global_step)
        self._milestones.saved(time.monotonic() - started)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained weights of a checkpoint, without the frozen ones."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trainable(self.model, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read back what ``save_model`` wrote."""
        load_trainable(model or self.model, Path(resume_from_checkpoint) / WEIGHTS)


class _EpochLoader(DataLoader[Any]):
    """A data loader that passes the epoch on to its batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.batch_sampler.set_epoch(epoch)


def _arguments(
    train: TrainConfig, precision: str, device: torch.device, scratch: Path
) -> transformers.TrainingArguments:
    """Return transformers' arguments; when to evaluate, save and stop is left to ``Milestones``."""
    arguments = transformers.TrainingArguments(
        output_dir=str(scratch / UNFINISHED),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        optim=_OPTIMIZERS[train.optimizer],
        adam_beta2=train.adam_beta2,
        max_grad_norm=train.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        seed=train.seed,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        log_level="error",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    use_one_gpu(arguments)
    return arguments
