"""A deployment without models: an engine that answers with its prompt, and all that stands around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ftreg.core.manifest import Manifest, Parent, Producer
from ftreg.core.types import CHECKPOINT, ServedModel, Source
from ftreg.serving.deployment import Deployment, Limits, Variant

END = 256
VOCABULARY = 257
BASE = "b3:" + "0" * 64


class ByteTokenizer:
    """A tokenizer whose tokens are bytes, with as much of a ``transformers`` tokenizer as a server needs."""

    all_special_ids = (END,)

    def __init__(self, chat: bool = True) -> None:
        self.chat_template = "every content, one after another" if chat else None

    def __len__(self) -> int:
        return VOCABULARY

    def __call__(self, text: str, **kwargs: object) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: Sequence[int], **kwargs: object) -> str:
        return bytes(token for token in ids if token != END).decode("utf-8", "replace")

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], **kwargs: object) -> str:
        if any(turn["content"] == "refuse me" for turn in turns):
            raise ValueError("as told")
        return "".join(turn["content"] for turn in turns)


class EchoEngine:
    """Answers with the prompt's own bytes, then ends.

    Attributes:
        delay: Seconds that a token takes.
        sharpness: Logit of the prompt's byte; that of all others is 0.
        fail: Raised by the next pass, once.
        gate: Cleared, it holds every step back.
        passes: What was done, ``read`` or ``step``, in order.
        steps: The rows of each step, by number.
        reads: The digests and prompts that each call of ``add`` was given.
    """

    def __init__(
        self, digests: Iterable[str] = ("b3:a",), *, context: int = 512, delay: float = 0.0, chat: bool = True
    ) -> None:
        self.models = {digest: ServedModel(ByteTokenizer(chat), context, frozenset({END})) for digest in digests}
        self.delay = delay
        self.sharpness = 100.0
        self.fail: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.passes: list[str] = []
        self.steps: list[list[int]] = []
        self.reads: list[list[tuple[str, list[int]]]] = []
        self.closed = False
        self.threads: set[int] = set()

    def batch(self) -> EchoBatch:
        return EchoBatch(self)

    def close(self) -> None:
        self.closed = True


class EchoBatch:
    def __init__(self, engine: EchoEngine) -> None:
        self._engine = engine
        self._rows: dict[int, tuple[Sequence[int], int]] = {}
        self._next = 0

    def add(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], np.ndarray]:
        engine = self._engine
        engine.passes.append("read")
        engine.reads.append([(digest, list(prompt)) for digest, prompt in prompts])
        assert all(prompt for _, prompt in prompts)
        assert all(digest in engine.models for digest, _ in prompts)
        self._work()
        numbers = list(range(self._next, self._next + len(prompts)))
        self._next += len(prompts)
        self._rows.update({number: (prompt, 0) for number, (_, prompt) in zip(numbers, prompts, strict=True)})
        return numbers, np.stack([self._logits(number) for number in numbers])

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        assert set(tokens) == set(self._rows), "every row needs a token"
        self._engine.passes.append("step")
        self._engine.steps.append(sorted(tokens))
        self._work()
        self._rows = {row: (prompt, at + 1) for row, (prompt, at) in self._rows.items()}
        return {row: self._logits(row) for row in self._rows}

    def remove(self, rows: Iterable[int]) -> None:
        for row in rows:
            del self._rows[row]

    def _work(self) -> None:
        engine = self._engine
        engine.threads.add(threading.get_ident())
        if engine.delay:
            time.sleep(engine.delay)
        engine.gate.wait(20)
        if engine.fail is not None:
            error, engine.fail = engine.fail, None
            raise error

    def _logits(self, row: int) -> np.ndarray:
        prompt, at = self._rows[row]
        logits = np.zeros(VOCABULARY, np.float32)
        logits[prompt[at] if at < len(prompt) else END] = self._engine.sharpness
        return logits


class PanicError(BaseException):
    """What a panic of Rust comes as: no ``Exception``."""


ENGINES: dict[str, EchoEngine] = {}
"""The engines that ``load`` has made, by the digest of each model."""

OPTIONS: dict[str, object] = {}
"""What ``load`` makes engines with."""


def load(sources: Sequence[Source], device: str) -> list[EchoEngine]:
    """Load what is served, as ``EngineSpec.serve`` does: one engine for each version."""
    engines = [EchoEngine([source.digest], **OPTIONS) for source in sources]
    ENGINES.update({source.digest: engine for source, engine in zip(sources, engines, strict=True)})
    return engines


def load_together(sources: Sequence[Source], device: str) -> list[EchoEngine]:
    """The same, all in one engine."""
    engine = EchoEngine([source.digest for source in sources], **OPTIONS)
    ENGINES.update({source.digest: engine for source in sources})
    return [engine]


def load_nothing(sources: Sequence[Source], device: str) -> list[EchoEngine]:
    """An engine that breaks its contract."""
    return []


@contextmanager
def options(**given: object):
    """Make engines with these arguments."""
    OPTIONS.update(given)
    try:
        yield
    finally:
        OPTIONS.clear()


def digest(letter: str) -> str:
    """The digest of a version that goes by a letter."""
    return "b3:" + letter * 64


def open_source(wanted: str) -> Source:
    """Open the version of a digest, all of which have one base."""
    producer = Producer("method", "lora", "methods", "ftreg", "0.1.0")
    manifest = Manifest(CHECKPOINT, "text-generation", (), (Parent("base", BASE),), producer)
    return Source("echo:1", wanted, CHECKPOINT, Path(), manifest, open_source)


def variant(name: str, letter: str, weight: float = 1.0, serve: str = "load") -> Variant:
    """A variant of echo."""
    return Variant(
        ref=f"{name}:1", digest=digest(letter), weight=weight, engine="echo", serve=f"tests.serving.fakes:{serve}"
    )


def deployment(*variants: Variant, shadows: Sequence[Variant] = (), **limits: object) -> Deployment:
    """A deployment called bot, of the experiment trial; a request may have as many answers as there is room for."""
    room = limits.get("batch", 16) + limits.get("queue", 64)
    return Deployment(
        name="bot",
        experiment="trial",
        salt="salt",
        variants=variants or (variant("alpha", "a"), variant("beta", "b")),
        shadows=tuple(shadows),
        limits=Limits(**{"max_answers": min(8, room), **limits}),
    )


def wait_for(condition, seconds: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fail where it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)
