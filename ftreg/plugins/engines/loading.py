"""What loading a model for inference needs in every engine: quiet libraries, clear errors, the tokenizer, the ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftreg import training
from ftreg.core.errors import FtregError
from ftreg.core.types import ServedModel


@contextmanager
def loading(what: str, folder: Path) -> Iterator[None]:
    """Load quietly; turn what libraries raise over unusable files into an error that names ``what`` and ``folder``."""
    try:
        with training.quiet():
            yield
    except (FtregError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = " ".join(str(error).split())[:400]
        raise FtregError(
            f"{what} cannot be loaded: {type(error).__name__}: {reason}",
            where=str(folder),
            hint="Its files are damaged, incomplete, or not of this kind; ftreg verify checks stored ones.",
        ) from error


def load_tokenizer(*folders: Path, context: int | None) -> Any:
    """Load the tokenizer of the first of ``folders`` that has one; ``context`` bounds its ``model_max_length``."""
    for folder in folders:
        if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists():
            tokenizer = training.load_tokenizer(folder)
            if context is not None:
                tokenizer.model_max_length = min(tokenizer.model_max_length, context)
            return tokenizer
    raise FtregError(
        "there is no tokenizer", where=str(folders[0]), hint="Put tokenizer.json and tokenizer_config.json beside it."
    )


def end_tokens(tokenizer: Any, *configs: Mapping[str, Any]) -> list[int]:
    """The token ids that end an answer: those of the generation and model configurations, and the tokenizer's."""
    found: set[int] = set()
    for value in (*(config.get("eos_token_id") for config in configs), tokenizer.eos_token_id):
        if value is not None:
            found.update(value if isinstance(value, list | tuple) else [value])
    return sorted(found)


def describe_model(tokenizer: Any, ends: Iterable[int], taken: int = 0) -> ServedModel:
    """What a server must know of a model; ``taken`` positions of its context are not free."""
    context = min(int(tokenizer.model_max_length), 1 << 30) - taken
    return ServedModel(tokenizer=tokenizer, context=context, ends=frozenset(ends))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one. Raise ``FtregError`` for what is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FtregError(f"cannot be read as JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise FtregError("is no JSON object", where=str(path))
    return value


def fit_new_tokens(tokenizer: Any, batch: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """How many tokens may follow the longest prompt within the context; raise ``FtregError`` if it leaves no room."""
    longest = max(len(row) for row in batch)
    room = int(min(tokenizer.model_max_length, 1 << 30)) - longest
    if room <= 0:
        raise FtregError(f"a prompt of {longest} tokens leaves no room in a context of {longest + room}")
    return min(max_new_tokens, room)


def before_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first that ends the answer."""
    stop = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return [int(token) for token in tokens[:stop]]
