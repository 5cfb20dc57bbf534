"""A deployment without models: an engine that answers with its prompt, and what a server needs besides."""

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
HANG_SECONDS = 120.0
"""After this long, a test that waits is taken to hang; no working server comes near it, however slow the machine."""


class ByteTokenizer:
    """A tokenizer whose tokens are bytes; it has what a server uses of a ``transformers`` tokenizer."""

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
        delay: Seconds that each pass takes.
        sharpness: Logit of the prompt's byte; all other logits are 0.
        fail: Raised by the next pass, once.
        gate: While it is cleared, every pass waits.
        hold_after: The gate is cleared after this many passes; None for never.
        name: Prefix of this engine's entries in ``passes``.
        passes: The passes in order, ``read`` or ``step``; engines may share one list.
        steps: The rows of each step, by number.
        reads: The digests and prompts of each call of ``add``.
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
        self.hold_after: int | None = None
        self.name = ""
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
        engine.passes.append(f"{engine.name}read")
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
        self._engine.passes.append(f"{self._engine.name}step")
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
        assert engine.gate.wait(HANG_SECONDS), "nobody opened the gate"
        if engine.hold_after is not None:
            engine.hold_after -= 1
            if engine.hold_after == 0:
                engine.gate.clear()
        if engine.fail is not None:
            error, engine.fail = engine.fail, None
            raise error

    def _logits(self, row: int) -> np.ndarray:
        prompt, at = self._rows[row]
        logits = np.zeros(VOCABULARY, np.float32)
        logits[prompt[at] if at < len(prompt) else END] = self._engine.sharpness
        return logits


class PanicError(BaseException):
    """A panic in Rust code, which Python sees as a ``BaseException`` that is not an ``Exception``."""


ENGINES: dict[str, EchoEngine] = {}
"""The engines that the functions below have made, by the digest of each model."""

OPTIONS: dict[str, object] = {}
"""Arguments with which engines are made."""


def load(sources: Sequence[Source], device: str) -> list[EchoEngine]:
    """Load versions as ``EngineSpec.serve`` does: one engine for each version."""
    engines = [EchoEngine([source.digest], **OPTIONS) for source in sources]
    ENGINES.update({source.digest: engine for source, engine in zip(sources, engines, strict=True)})
    return engines


def load_together(sources: Sequence[Source], device: str) -> list[EchoEngine]:
    """Load all versions into one engine."""
    engine = EchoEngine([source.digest for source in sources], **OPTIONS)
    ENGINES.update({source.digest: engine for source in sources})
    return [engine]


def load_nothing(sources: Sequence[Source], device: str) -> list[EchoEngine]:
    """Break the contract: load no version."""
    return []


@contextmanager
def options(**given: object):
    """Make engines with these arguments within the body."""
    OPTIONS.update(given)
    try:
        yield
    finally:
        OPTIONS.clear()


def digest(letter: str) -> str:
    """Return the digest of the version that a letter stands for."""
    return "b3:" + letter * 64


def open_source(wanted: str) -> Source:
    """Open the version of a digest; all versions have the same base."""
    producer = Producer("method", "lora", "methods", "ftreg", "0.1.0")
    manifest = Manifest(CHECKPOINT, "text-generation", (), (Parent("base", BASE),), producer)
    return Source("echo:1", wanted, Path(), manifest, open_source)


def variant(name: str, letter: str, weight: float = 1.0, serve: str = "load") -> Variant:
    """Return a variant that an echo engine serves."""
    return Variant(
        ref=f"{name}:1", digest=digest(letter), weight=weight, engine="echo", serve=f"tests.serving.fakes:{serve}"
    )


def deployment(*variants: Variant, shadows: Sequence[Variant] = (), **limits: object) -> Deployment:
    """Return the deployment ``bot`` of the experiment ``trial``, by default with two variants."""
    room = limits.get("batch", 16) + limits.get("queue", 64)
    return Deployment(
        name="bot",
        experiment="trial",
        salt="salt",
        variants=variants or (variant("alpha", "a"), variant("beta", "b")),
        shadows=tuple(shadows),
        limits=Limits(**{"max_answers": min(8, room), **limits}),
    )


def wait_for(condition) -> None:
    """Wait until ``condition()`` is true; fail if it hangs."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.002)
