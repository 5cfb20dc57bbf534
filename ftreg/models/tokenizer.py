"""Tokenizers in model folders: found, loaded, copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ftreg.core.errors import InputError
from ftreg.models.quiet import loading

_VOCABULARIES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")

_FILES = (
    *_VOCABULARIES, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "merges.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


def load_tokenizer(*folders: Path, context: int | None = None) -> Any:
    """Load the tokenizer of the first of ``folders`` that has one.

    Args:
        *folders: Where to look, such as an adapter's folder and then its base's.
        context: The model's longest sequence; ``model_max_length`` is lowered to it.

    Raises:
        InputError: No folder has a tokenizer, or its files cannot be used.
    """
    import transformers

    folder = _first_with_tokenizer(folders)
    if folder is None:
        raise InputError(
            "has no tokenizer", where=str(folders[0]), hint="Put tokenizer.json and tokenizer_config.json beside it."
        )
    with loading("the tokenizer", folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if context is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    return tokenizer


def copy_tokenizer(target: Path, *folders: Path) -> None:
    """Copy the tokenizer, with its chat template, of the first of ``folders`` that has one."""
    folder = _first_with_tokenizer(folders)
    for name in _FILES if folder else ():
        if folder and (folder / name).exists():
            shutil.copyfile(folder / name, target / name)


def _first_with_tokenizer(folders: tuple[Path, ...]) -> Path | None:
    """The first of ``folders`` that has a vocabulary; None if there is none."""
    return next((each for each in folders if any((each / name).exists() for name in _VOCABULARIES)), None)
