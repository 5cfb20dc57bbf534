"""The vocabulary that every room shares: versions, sources, artifacts, jobs, engines, examples.

Only names and shapes live here. Nothing here imports torch, and nothing here touches a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ftreg.core.errors import FtregError
from ftreg.core.manifest import Json, Manifest, Parent
from ftreg.core.requirements import Requirement

if TYPE_CHECKING:
    import numpy as np
    from pydantic import BaseModel

    from ftreg.core.recipe import TrainConfig

CHECKPOINT = "checkpoint"
ADAPTER = "adapter"
ONNX = "onnx"
DATASET = "dataset"

TEXT_GENERATION = "text-generation"


@dataclass(frozen=True)
class Version:
    """A published version as the catalog knows it; ``manifest`` is its identity, the rest are pointers to it."""

    name: str
    number: int
    digest: str
    kind: str
    size: int
    created: str
    manifest: Manifest
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        aliases = "".join(f" @{alias}" for alias in self.aliases)
        return f"<Version {self.ref} {self.kind} {self.digest[:15]}{aliases}>"

    @property
    def ref(self) -> str:
        """``name:number``."""
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class Problem:
    """A reason why a gate refuses; ``hint`` says what would change its mind."""

    message: str
    hint: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A training run or a step, as observers see it.

    Attributes:
        type: ``method`` or ``step``.
        name: The method's or step's name.
        target: The name under which the result will be published.
        inputs: What it works on: digests with their roles, in order.
        config: Its full configuration.
    """

    type: str
    name: str
    target: str
    inputs: tuple[Parent, ...]
    config: Mapping[str, Json]


class Progress(Protocol):
    """Where long work says how far it is. The command line draws it; the default says nothing."""

    def begin(self, what: str, total: int | None = None, unit: str = "steps") -> None:
        """Start a bar of ``total`` units; None where the length is not known. One bar at a time."""

    def update(self, done: int, **facts: float | str) -> None:
        """Say that ``done`` units are done, and the newest facts, such as ``loss=1.2``."""

    def end(self) -> None:
        """The bar that was begun is complete."""

    def say(self, message: str) -> None:
        """Tell something worth a line."""


class NullProgress:
    """The Progress that says nothing."""

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
    """One training example: chat messages, of which the assistant's are learnt, or plain text, all of it learnt.

    Attributes:
        messages: The turns; empty where the example is plain text.
        text: The text; None where the example is a chat.
        fields: The row's other columns, such as a group key.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    fields: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """Examples by what they are for; ``validation`` and ``test`` may be empty."""

    train: Sequence[Example]
    validation: Sequence[Example] = ()
    test: Sequence[Example] = ()


@dataclass(frozen=True)
class Tolerance:
    """How far a derived version may be from its parent on probe text; None leaves a figure unchecked.

    Attributes:
        kl: Largest mean KL(parent ‖ child), in nats per token.
        top1: Smallest share of positions at which both rank the same token first.
        loss_delta: Largest rise of the loss, in nats per token.
        greedy_prefix: Smallest share of greedily written tokens before the first that differs.
        logit_error: Largest absolute difference of any logit.
    """

    kl: float | None = None
    top1: float | None = None
    loss_delta: float | None = None
    greedy_prefix: float | None = None
    logit_error: float | None = None


@dataclass(frozen=True)
class Source:
    """A version opened for reading: what steps, engines and methods get to see of the registry.

    Attributes:
        ref: How to name it to a person.
        digest: Its identity.
        kind: Its artifact kind.
        path: A folder with its files, read-only; libraries such as transformers load it as it is.
        manifest: Its manifest.
        resolve: Opens another version by digest; used by ``parent``.
    """

    ref: str
    digest: str
    kind: str
    path: Path
    manifest: Manifest
    resolve: Callable[[str], Source] = field(repr=False, compare=False)

    def parent(self, role: str) -> Source:
        """Open the parent in ``role``; raise ``FtregError`` where there is none."""
        digest = self.manifest.parent(role)
        if digest is None:
            raise FtregError(f"{self.ref} ({self.kind}) has no parent in the role {role!r}")
        return self.resolve(digest)


@dataclass(frozen=True)
class Artifact:
    """What a method or a step made: everything in its job's ``staging`` folder, and what is true of it.

    Attributes:
        kind: What the files are.
        task: What the model is for.
        facts: What can be said of the result itself; part of its identity, so no times and no paths.
        capabilities: What can be done with it; by default what its method's or step's spec promises.
        requires: Distributions that loading it needs, beyond those of the engine that loads it.
        tolerance: How far a step's result may be from the step's first input; None if it is not measured against it.
        measured: Figures of the work itself (loss curve, tokens/s); kept as evidence, not as identity.
    """

    kind: str
    task: str = TEXT_GENERATION
    facts: Mapping[str, Json] = field(default_factory=dict)
    capabilities: frozenset[str] | None = None
    requires: tuple[Requirement, ...] = ()
    tolerance: Tolerance | None = None
    measured: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainJob:
    """All that a training method needs, and all that it may touch.

    Attributes:
        name: Name that the result will have, for reports and pictures.
        base: Folder of the base checkpoint, with its tokenizer; read-only.
        data: The examples, split.
        config: The method's own validated configuration.
        train: The shared trainer's configuration.
        staging: Empty folder; what the method writes here becomes the version's files.
        report: Folder for files about the run (curves, pictures); kept as evidence.
        scratch: Folder for checkpoints; kept when the run is interrupted, so that it can resume.
        template: Jinja source of the chat template; None for the tokenizer's own, else ftreg's plain one.
        resume: Go on from the newest checkpoint in ``scratch``.
        progress: Where to say how far the work is.
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
    resume: bool = False
    progress: Progress = field(default_factory=NullProgress)


@dataclass(frozen=True)
class Input:
    """A version that a step works on: the role it has in the result's lineage, and its weight among the inputs."""

    role: str
    source: Source
    weight: float = 1.0


@dataclass(frozen=True)
class StepJob:
    """All that a post-processing step needs, and all that it may touch.

    Attributes:
        inputs: The versions to work on, in the order given; more than one only for a step that ``combines``.
        config: The step's own validated configuration.
        staging: Empty folder; what the step writes here becomes the version's files.
        report: Folder for files about the run; kept as evidence.
        data: Held-out and training examples of the source's lineage, for steps that calibrate; may be empty.
        seed: Seed of everything random.
        progress: Where to say how far the work is.
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
        """The first input: what is transformed; ``source.parent(role)`` opens what it was made from."""
        return self.inputs[0].source


class Method(Protocol):
    """A training method's ``impl``: a function from a job to what it made."""

    def __call__(self, job: TrainJob) -> Artifact:
        """Train, write the result into ``job.staging``, and say what it is."""


class Step(Protocol):
    """A post-processing step's ``impl``: a function from a job to what it made."""

    def __call__(self, job: StepJob) -> Artifact:
        """Transform ``job.source``, write the result into ``job.staging``, and say what it is."""


class Engine(Protocol):
    """A loaded model that answers; an engine's ``impl`` is a function ``(source, device) -> Engine``."""

    tokenizer: Any
    """The ``transformers`` tokenizer that goes with the model."""

    def logits(self, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return, for each row of token ids of length T, its logits as float32 of shape (T, vocabulary)."""

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt greedily; return the new tokens up to, and without, the end-of-sequence token."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True)
class ServedModel:
    """What is known of a model that a server holds.

    Attributes:
        tokenizer: The ``transformers`` tokenizer that goes with it.
        context: Most tokens of prompt and answer together.
        ends: Token ids that end an answer.
    """

    tokenizer: Any
    context: int
    ends: frozenset[int]


class Batch(Protocol):
    """Answers that are being written side by side, a token a step each, by models that share weights.

    What a row gets does not depend on the rows beside it. A batch is used by one thread.
    """

    def add(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], np.ndarray]:
        """Read prompts, each for the model of a digest, at least one token long.

        Returns a number for each new row, never used again, and the logits of its next token, float32 of shape
        (prompts, vocabulary).
        """

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Give each row of the batch (all of them) its next token; return the logits of the token after it, by row."""

    def remove(self, rows: Iterable[int]) -> None:
        """Take rows out; those that stay go on as if they had been alone."""


class ServingEngine(Protocol):
    """Models that share weights, loaded to serve; a server drives each engine from one thread."""

    models: Mapping[str, ServedModel]
    """The models it holds, by digest."""

    def batch(self) -> Batch:
        """An empty batch. Several may be alive, so that one can wait while another goes on."""

    def close(self) -> None:
        """Free the models."""


class Format(Protocol):
    """A dataset row format's ``impl``: an object that recognises rows and turns them into examples."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Say whether the columns of ``row`` are this format's."""

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into an example; raise ``DataError`` (without the row's number) for a malformed one."""


class Metric(Protocol):
    """A metric's ``impl``: a function from answers to one figure."""

    def __call__(self, answers: Sequence[str], references: Sequence[str]) -> float:
        """Score generated answers against the expected ones."""
