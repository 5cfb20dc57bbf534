"""Evaluations: measures versions on held-out examples, and keeps the figures and the answers as evidence.

Nothing is computed twice: figures that the evidence holds for the same data, engine, metric and settings are taken from
there, and the answers of an earlier evaluation serve further metrics.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from ftreg.context import Context
from ftreg.core.discovery import IN_PROCESS
from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import Json
from ftreg.core.types import DATASET, Source, Table
from ftreg.data import AnswerFile, write_scores
from ftreg.pipeline.engines import engine_key, find_engine, open_engine, require_runtime
from ftreg.pipeline.held_out import HeldOut
from ftreg.pipeline.metrics import MetricCall, compute
from ftreg.registry import EvidenceRecord

EVALUATION = "evaluation"
"""The type of evidence that holds an evaluation."""

_ANSWERS = "answers.jsonl"
_SCORES = "scores"
_MAX_LENGTH = 1024  # tokens


@dataclass(frozen=True)
class MetricResult:
    """What one metric found.

    Attributes:
        figures: Its figures by name; a single one has the metric's name.
        tables: Its tables, such as a confusion matrix.
        settings: Its full configuration.
        environment: The versions of its plugin and of the distributions that it requires.
        examples: The file with the score of each answer, for ``ftreg.data.read_scores``; None if its figures are not
            means over the answers.
    """

    figures: Mapping[str, float]
    tables: Sequence[Table]
    settings: Mapping[str, Json]
    environment: Mapping[str, str | None]
    examples: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model's results on held-out examples.

    Attributes:
        loss: Mean loss in nats per labelled token.
        perplexity: ``exp(loss)``.
        token_accuracy: Share of the labelled tokens that the model ranks first, given the true tokens before each.
        tokens: How many tokens are labelled.
        examples: How many examples were measured.
        metrics: What each metric found in ``answers``; empty if no example has a prompt.
        failed_metrics: Why a metric could not be computed, by its name.
        answers: The greedy answers, in the order of the examples.
        costs: What the evaluation took: ``answer_tokens_per_second``, and ``peak_rss_bytes``, the peak of the process's
            resident memory meanwhile; None for what could not be measured.
        at: When the evidence was recorded, in UTC, ISO 8601.
    """

    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int
    examples: int
    metrics: Mapping[str, MetricResult]
    failed_metrics: Mapping[str, str]
    answers: AnswerFile
    costs: Mapping[str, float | None] = field(default_factory=dict)
    at: str = ""

    def __repr__(self) -> str:
        figures = " ".join(f"{name}={figure:.4g}" for name, figure in self.figures.items())
        return f"<Evaluation {figures} answers={len(self.answers)}>"

    @property
    def figures(self) -> dict[str, float]:
        """All figures by name; those of a metric with several are called ``metric.figure``."""
        own = {"loss": self.loss, "perplexity": self.perplexity, "token_accuracy": self.token_accuracy}
        return own | {
            figure if figure == name else f"{name}.{figure}": value
            for name, result in self.metrics.items()
            for figure, value in result.figures.items()
        }


def check_evaluable(context: Context, ref: str, *, engine: str | None = None) -> None:
    """Raise ``InputError`` if ``evaluate_version`` cannot measure ``ref``, before any model is loaded."""
    source = context.registry.source(ref)
    if source.kind == DATASET:
        raise InputError(f"{source.ref} is a dataset, not a model", hint="See `registry.list()`")
    context.host.require(find_engine(context.host, source.kind, engine))
    require_runtime(source)


def evaluate_version(
    context: Context,
    ref: str,
    data: HeldOut,
    calls: Sequence[MetricCall] = (),
    *,
    engine: str | None = None,
    again: bool = False,
) -> Evaluation:
    """Measure ``ref`` on ``data``, and keep what is found as evidence on its digest; see also ``check_evaluable``.

    Args:
        context: Where to work.
        ref: The version.
        data: What to measure it on.
        calls: The metrics to compute.
        engine: The engine to run it with; by default the first that can load it.
        again: Compute everything anew, also what the evidence holds.

    Raises:
        DataError: No example has a labelled token.
    """
    source = context.registry.source(ref)
    run = _run_of(context, source, data, engine)
    earlier = [] if again else _earlier(context, source, run)
    known = {call.spec.name: on_record for call in calls if (on_record := _known(earlier, call)) is not None}
    needed = [call for call in calls if call.spec.name not in known]
    if earlier and not earlier[-1].body["answered"]:
        return _evaluation(earlier[-1], {}, _unanswered(calls))
    if earlier and not needed:
        context.progress.say(f"{ref} was evaluated on {earlier[-1].at[:10]}: the figures on record are shown")
        return _evaluation(earlier[-1], known, {})
    with context.registry.staging() as staging:
        file = staging.files / _ANSWERS
        if earlier:
            context.progress.say(f"{ref} was evaluated on {earlier[-1].at[:10]}: only the new metrics are computed")
            shutil.copyfile(earlier[-1].files[_ANSWERS], file)
            found = {key: earlier[-1].body[key] for key in _MEASURED}
        else:
            found = _measure(context, source, data, engine, file)
        (staging.files / _SCORES).mkdir()
        computed, failed = _compute(context, needed, AnswerFile(file, found["answered"]), staging.files)
        for name, (_, scores) in known.items():
            if scores is not None:
                shutil.copyfile(scores, _scores_file(staging.files, name))
        every = {name: result for name, (result, _) in known.items()} | computed
        metrics = {call.spec.name: every[call.spec.name] for call in calls if call.spec.name in every}
        body = run | found | {"metrics": metrics, "failed_metrics": failed}
        record = context.registry.add_evidence(source.ref, EVALUATION, body, files=staging.files)
    return _evaluation(record, {name: _of_record(record, name) for name in metrics}, failed)


def _run_of(context: Context, source: Source, data: HeldOut, engine: str | None) -> dict[str, Json]:
    """Return what the answers and the loss of ``source`` depend on, as JSON."""
    return {
        "dataset": data.digest,
        "split": data.split,
        "examples": len(data.examples),
        "engine": engine_key(context.host, source, engine),
        "max_length": _MAX_LENGTH,
    }


def _earlier(context: Context, source: Source, run: Mapping[str, Json]) -> list[EvidenceRecord]:
    """Return the evaluations on record with the newest answers to the same run, oldest first."""
    if not is_versioned(run["engine"]):
        return []
    found = [
        record
        for record in context.registry.evidence(source.digest)
        if record.type == EVALUATION and all(record.body.get(key) == value for key, value in run.items())
    ]
    return [record for record in found if record.body["answers"] == found[-1].body["answers"]]


def is_versioned(key: Mapping[str, Json]) -> bool:
    """Return True unless a plugin of this process is involved: it has no version, and may be another one each time."""
    return IN_PROCESS not in key["environment"]


_Found = tuple[Mapping[str, Json], Path | None]
"""What a record holds of a metric, and its file with the score of each answer."""


def _known(records: Sequence[EvidenceRecord], call: MetricCall) -> _Found | None:
    """Return what the records hold of a metric with the same settings and packages; None if it was not computed."""
    for record in reversed(records) if is_versioned(call.key) else ():
        body: Mapping[str, Json] | None = record.body["metrics"].get(call.spec.name)
        if body is not None and all(body[key] == value for key, value in call.key.items()):
            return _of_record(record, call.spec.name)
    return None


def _of_record(record: EvidenceRecord, metric: str) -> _Found:
    """Return what a record holds of a metric that it has."""
    return record.body["metrics"][metric], record.files.get(_scores_file(Path(), metric).as_posix())


def _scores_file(folder: Path, metric: str) -> Path:
    """Return where the score of each answer stands in a folder of evidence."""
    return folder / _SCORES / f"{metric}.jsonl"


_MEASURED = ("answers", "answered", "max_new_tokens", "loss", "perplexity", "token_accuracy", "tokens", "costs")


def _measure(context: Context, source: Source, data: HeldOut, engine: str | None, file: Path) -> dict[str, Json]:
    """Run the model, write its answers into ``file``, and return the figures under the keys ``_MEASURED``."""
    from ftreg.evaluation import PeakMemory, measure  # imports numpy, which is not always installed

    memory = PeakMemory()
    with open_engine(context, source, name=engine) as loaded:
        found = measure(loaded, data.examples, file, max_length=_MAX_LENGTH, progress=context.progress)
    return {
        "answers": blake3().update_mmap(file).hexdigest(),
        "answered": found.answered,
        "max_new_tokens": found.max_new_tokens,
        "loss": found.scores.loss,
        "perplexity": math.exp(min(found.scores.loss, 700.0)),
        "token_accuracy": found.scores.accuracy,
        "tokens": found.scores.tokens,
        "costs": {
            "answer_tokens_per_second": found.answer_tokens / found.answer_seconds if found.answer_tokens else None,
            "peak_rss_bytes": memory.read(),
        },
    }


def _compute(
    context: Context, calls: Sequence[MetricCall], answers: AnswerFile, folder: Path
) -> tuple[dict[str, Json], dict[str, str]]:
    """Compute metrics, write their scores into ``folder``, and return what each found, and why the others failed."""
    if not answers:
        return {}, _unanswered(calls)
    found: dict[str, Json] = {}
    failed: dict[str, str] = {}
    for call in calls:
        try:
            result = compute(context.host, call, answers, context.progress)
            if examples := result.pop("examples"):
                write_scores(_scores_file(folder, call.spec.name), examples)
            found[call.spec.name] = {**result, **call.key}
        except FtregError as error:  # the other figures are worth having without it
            failed[call.spec.name] = f"{error.where}: {error.message}" if error.where else error.message
            context.progress.say(f"metric {call.spec.name} could not be computed: {failed[call.spec.name]}")
    return found, failed


def _unanswered(calls: Sequence[MetricCall]) -> dict[str, str]:
    """Return the reason why named metrics have no figures when no example was answered; by the metric's name."""
    return {call.spec.name: "no example has a prompt to answer" for call in calls if not call.spec.default}


def _evaluation(record: EvidenceRecord, metrics: Mapping[str, _Found], failed: Mapping[str, str]) -> Evaluation:
    """Describe the evaluation in ``record`` with the metrics that were asked for."""
    body = record.body
    results = {name: _result(*found) for name, found in metrics.items()}
    return Evaluation(
        loss=body["loss"],
        perplexity=body["perplexity"],
        token_accuracy=body["token_accuracy"],
        tokens=body["tokens"],
        examples=body["examples"],
        metrics=results,
        failed_metrics=failed,
        answers=AnswerFile(record.files[_ANSWERS], body["answered"]),
        costs=body["costs"],
        at=record.at,
    )


def _result(found: Mapping[str, Json], examples: Path | None) -> MetricResult:
    tables = [Table(**table) for table in found["tables"]]
    return MetricResult(found["figures"], tables, found["settings"], found["environment"], examples)
