"""The types that all parts of ftreg share: versions, sources, artifacts, jobs, engines, examples.

They are plain records and protocols: nothing here imports torch, and nothing reads or writes a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ftreg.core.errors import FtregError
from ftreg.core.manifest import Json, Manifest, Parent
from ftreg.core.requirements import Requirement

if TYPE_CHECKING:
    import numpy as np
    from pydantic import BaseModel

    from ftreg.core.recipe import ObjectiveConfig, TrainConfig

CHECKPOINT = "checkpoint"
ADAPTER = "adapter"
ONNX = "onnx"
DATASET = "dataset"

TEXT_GENERATION = "text-generation"

State = Literal["here", "rebuildable"]
"""Where the files of a version are: in the registry, or given up, to be made again when the version is opened."""


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes:
        name: The model's name.
        number: Its number among the versions of that name, from 1; 0 before it is published.
        digest: The BLAKE3 of its manifest, ``b3:…``.
        kind: What the files are.
        size: The size of its files in bytes.
        created: When it was published, in UTC, ISO 8601.
        manifest: What makes it what it is.
        aliases: The aliases that point to it.
        tags: Its tags.
        state: ``here``, or ``rebuildable`` if its files were given up.
    """

    name: str
    number: int
    digest: str
    kind: str
    size: int
    created: str
    manifest: Manifest
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    state: State = "here"

    def __repr__(self) -> str:
        aliases = "".join(f" @{alias}" for alias in self.aliases)
        return f"<Version {self.ref} {self.kind} {self.digest[:15]}{aliases}>"

    @property
    def ref(self) -> str:
        """``name:number``."""
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class Problem:
    """A reason why a gate refuses; ``hint`` says what to do about it."""

    message: str
    hint: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A run of a method or a step, as gates and observers receive it.

    Attributes:
        type: ``method`` or ``step``.
        name: The method's or step's name.
        target: The name under which the result will be published.
        inputs: The digests that it works on with their roles, in order. A gate that is asked before an earlier step of
            the same recipe has run, or before a base is fetched, receives those that are known.
        config: Its full configuration.
        tags: The tags that the result will have.
    """

    type: str
    name: str
    target: str
    inputs: tuple[Parent, ...]
    config: Mapping[str, Json]
    tags: Mapping[str, str] = field(default_factory=dict)


class Progress(Protocol):
    """Where long work reports its progress. The command line draws it; by default it is discarded."""

    def begin(self, what: str, total: int | None = None, unit: str = "steps") -> None:
        """Start a bar of ``total`` units, None if the number is not known. There is one bar at a time."""

    def update(self, done: int, **facts: float | str) -> None:
        """Report that ``done`` units are done, with current figures such as ``loss=1.2``."""

    def end(self) -> None:
        """End the bar."""

    def say(self, message: str) -> None:
        """Print a line."""


class NullProgress:
    """A Progress that discards everything."""

    def begin(self, what: str, total: int | None = None, unit: str = "steps") -> None:
        """Ignore."""

    def update(self, done: int, **facts: float | str) -> None:
        """Ignore."""

    def end(self) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat; ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One training example: a chat, whose assistant messages are labels, or plain text, all of which is.

    Attributes:
        messages: The turns of the chat; empty for plain text.
        text: The plain text; None for a chat.
        fields: The row's other columns, such as a group key.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    fields: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """The examples of a dataset by split; ``validation`` and ``test`` may be empty."""

    train: Sequence[Example]
    validation: Sequence[Example] = ()
    test: Sequence[Example] = ()


@dataclass(frozen=True)
class RemoteBase:
    """A base model that a URI names, as far as it is known without fetching it.

    Attributes:
        folder: Its folder, if it has been fetched to this machine before.
        size: Bytes that fetching it would bring.
    """

    folder: Path | None = None
    size: int = 0


@dataclass(frozen=True)
class Tolerance:
    """How far a derived version may be from its parent on the probe text; a figure that is None is not checked.

    Attributes:
        kl: Largest mean KL(parent ‖ child), in nats per token.
        top1: Smallest share of positions at which both rank the same token first.
        loss_delta: Largest rise of the loss, in nats per token.
        greedy_prefix: Smallest share of greedily decoded tokens before the first difference.
        logit_error: Largest absolute difference of any logit.
    """

    kl: float | None = None
    top1: float | None = None
    loss_delta: float | None = None
    greedy_prefix: float | None = None
    logit_error: float | None = None


@dataclass(frozen=True)
class Source:
    """A version opened for reading: the view of the registry that steps, engines and methods have.

    Attributes:
        ref: Its name for messages.
        digest: Its digest.
        path: A read-only folder with its files, which libraries such as transformers can load.
        manifest: Its manifest.
        resolve: Opens another version by digest; ``parent`` uses it.
    """

    ref: str
    digest: str
    path: Path
    manifest: Manifest
    resolve: Callable[[str], Source] = field(repr=False, compare=False)

    @property
    def kind(self) -> str:
        """What the files are."""
        return self.manifest.kind

    def parent(self, role: str) -> Source:
        """Open the parent in ``role``; raise ``FtregError`` if there is none."""
        digest = self.manifest.parent(role)
        if digest is None:
            raise FtregError(f"{self.ref} ({self.kind}) has no parent in the role {role!r}")
        return self.resolve(digest)


@dataclass(frozen=True)
class Artifact:
    """The result of a method or a step: describes the files that it wrote into its job's ``staging`` folder.

    Attributes:
        kind: What the files are.
        task: What the model is for.
        facts: Properties of the result itself; part of its identity, so without times and paths.
        capabilities: What can be done with it; by default what the method's or step's spec promises.
        requires: Distributions that loading it needs, beyond those of the engine that loads it.
        tolerance: How far a step's result may be from the step's first input; None if the two are not compared.
        checked: Whether the step itself has compared all that it changed with what the first input computes, and each
            token of a text sees all of it. The comparison of the whole then takes few tokens.
        measured: Figures of the work itself (loss curve, tokens/s); kept as evidence of type ``run``.
    """

    kind: str
    task: str = TEXT_GENERATION
    facts: Mapping[str, Json] = field(default_factory=dict)
    capabilities: frozenset[str] | None = None
    requires: tuple[Requirement, ...] = ()
    tolerance: Tolerance | None = None
    checked: bool = False
    measured: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainJob:
    """Everything that a training method gets, and may use.

    Attributes:
        name: Name that the result will have, for reports and pictures.
        base: Folder of the base checkpoint, with its tokenizer; read-only.
        data: The examples, split.
        config: The method's own validated configuration.
        train: The shared trainer's configuration.
        staging: Empty folder; the files that the method writes here become the version.
        report: Folder for files about the run (curves, pictures); kept as evidence.
        scratch: Folder for checkpoints; kept if the run is interrupted, so that it can be resumed.
        template: Jinja source of the chat template; None for the tokenizer's own, or ftreg's plain one if it has none.
        objective: What to minimize; None for the loss on the labels. ``fit`` follows it.
        models: The models that the objective needs beside the base, by their role, such as ``teacher``.
        resume: Continue from the newest checkpoint in ``scratch``.
        progress: Where to report progress.
    """

    name: str
    base: Path
    data: Splits
    config: BaseModel
    train: TrainConfig
    staging: Path
    report: Path
    scratch: Path
    template: str | None = None
    objective: ObjectiveConfig | None = None
    models: Mapping[str, Source] = field(default_factory=dict)
    resume: bool = False
    progress: Progress = field(default_factory=NullProgress)


@dataclass(frozen=True)
class Input:
    """An input of a step: a version, its role in the result's lineage, and its weight among the inputs."""

    role: str
    source: Source
    weight: float = 1.0


@dataclass(frozen=True)
class StepJob:
    """Everything that a post-processing step gets, and may use.

    Attributes:
        inputs: The versions to work on, in the order given; more than one only for a step that ``combines``.
        config: The step's own validated configuration.
        staging: Empty folder; the files that the step writes here become the version.
        report: Folder for files about the run; kept as evidence.
        data: The dataset of the source's lineage, for steps that calibrate; may be empty.
        seed: Seed of everything random.
        progress: Where to report progress.
    """

    inputs: tuple[Input, ...]
    config: BaseModel
    staging: Path
    report: Path
    data: Splits = field(default_factory=lambda: Splits(train=()))
    seed: int = 0
    progress: Progress = field(default_factory=NullProgress)

    @property
    def source(self) -> Source:
        """The first input, which is transformed; ``source.parent(role)`` opens its parents."""
        return self.inputs[0].source


@dataclass(frozen=True)
class AnsweredPrompt:
    """What a model answered to one example.

    Attributes:
        prompt: The rendered prompt, without special tokens.
        reference: The expected answer.
        answer: The model's answer.
        prompt_tokens: Tokens of the prompt, special tokens included.
        reference_tokens: Tokens of the reference.
        answer_tokens: Tokens of the answer.
        cut: True if the answer is as long as answers may be, so that its end may be missing.
        fields: The row's other columns, such as a label.
    """

    prompt: str
    reference: str
    answer: str
    prompt_tokens: int = 0
    reference_tokens: int = 0
    answer_tokens: int = 0
    cut: bool = False
    fields: Mapping[str, Json] = field(default_factory=dict)

    @property
    def as_expected(self) -> bool:
        """Whether the answer is the reference, apart from white space."""
        return self.answer.split() == self.reference.split()


@dataclass(frozen=True)
class MetricJob:
    """Everything that a metric gets, and may use.

    Attributes:
        answers: The answers, in the order of the examples; at least one. They are read from a file whenever they are
            iterated over, so that a metric which keeps none of them takes the same memory for any number of rows.
        config: The metric's own validated configuration.
        progress: Where long work reports its progress.
    """

    answers: Collection[AnsweredPrompt]
    config: BaseModel
    progress: Progress = field(default_factory=NullProgress)


@dataclass(frozen=True)
class Table:
    """A table that a metric returns beside its figures, such as a confusion matrix.

    Attributes:
        title: What it shows.
        columns: The titles of its columns.
        rows: Its cells, each a text, a number, a truth value or None; as many in each row as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Json]]


@dataclass(frozen=True)
class Scores:
    """The result of a metric that returns tables, or the score of each answer, too.

    Attributes:
        figures: Finite numbers by name, such as ``{"accuracy": 0.9, "macro_f1": 0.85}``.
        tables: Tables to show with them.
        examples: For each figure that is a mean over the answers, the score of each answer in their order, NaN if it
            has none; an ``array("d")`` takes the least memory. Comparisons compute confidence intervals and tests from
            them; other figures get none.
    """

    figures: Mapping[str, float]
    tables: Sequence[Table] = ()
    examples: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of_examples(
        cls, examples: Mapping[str, Sequence[float]], tables: Sequence[Table] = (), **figures: float
    ) -> Scores:
        """Return scores with the mean of each figure over the answers that have a score, and further ``figures``."""
        return cls({**{name: mean(scores) for name, scores in examples.items()}, **figures}, tables, examples)


def mean(scores: Sequence[float]) -> float:
    """Return the mean of the scores that are not NaN; NaN if there are none."""
    given = sum(not math.isnan(score) for score in scores)
    return math.fsum(score for score in scores if not math.isnan(score)) / given if given else math.nan


class Method(Protocol):
    """A training method's ``impl``: a function from a job to its result."""

    def __call__(self, job: TrainJob) -> Artifact:
        """Train, write the result into ``job.staging``, and describe it."""


class Step(Protocol):
    """A post-processing step's ``impl``: a function from a job to its result."""

    def __call__(self, job: StepJob) -> Artifact:
        """Transform ``job.source``, write the result into ``job.staging``, and describe it."""


class Engine(Protocol):
    """A loaded model; an engine's ``impl`` is a function ``(source, device) -> Engine``."""

    tokenizer: Any
    """The ``transformers`` tokenizer that goes with the model."""

    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Return, for each row of token ids of length T, its logits as float32 of shape (T, vocabulary).

        Args:
            batch: The rows.
            last: Return the logits of at most so many tokens at the end of each row, which saves memory in long rows.
        """

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Decode each prompt greedily; return the new token ids, without the end-of-sequence token."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True)
class ServedModel:
    """A model that a serving engine has loaded.

    Attributes:
        tokenizer: The ``transformers`` tokenizer that goes with it.
        context: The largest number of tokens of prompt and answer together.
        ends: The token ids that end an answer.
    """

    tokenizer: Any
    context: int
    ends: frozenset[int]


class Batch(Protocol):
    """Sequences that are decoded together, one token a step, by models that share weights.

    The logits of a row do not depend on the other rows. A batch is used by one thread.
    """

    def add(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], np.ndarray]:
        """Add a row for each prompt.

        Args:
            prompts: The digest of the model and the token ids, at least one, of each prompt.

        Returns:
            A number for each new row, which is never used again, and the logits of the rows' next tokens as float32 of
            shape (prompts, vocabulary).
        """

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Append one token to every row of the batch; return the logits of the token after it, by row."""

    def remove(self, rows: Iterable[int]) -> None:
        """Remove rows; the others continue unchanged."""


class ServingEngine(Protocol):
    """Models that share weights, loaded to serve; a server uses each engine from one thread."""

    models: Mapping[str, ServedModel]
    """The loaded models by digest."""

    def batch(self) -> Batch:
        """Create an empty batch; there may be several, so that one can wait while another is decoded."""

    def close(self) -> None:
        """Free the models."""


class Format(Protocol):
    """A dataset row format's ``impl``: an object that recognises rows and turns them into examples."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Return True if the columns of ``row`` are those of this format."""

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into an example; raise ``DataError`` (without the row's number) if it is malformed."""


class Metric(Protocol):
    """A metric's ``impl``: a function from a job to one figure, several named figures, or figures with tables."""

    def __call__(self, job: MetricJob) -> float | Mapping[str, float] | Scores:
        """Score the answers in ``job.answers``; all figures are finite numbers."""
