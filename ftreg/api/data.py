"""Training data: checks, summarizes and previews a file before a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.api.opening import opened
from ftreg.context import Context
from ftreg.core.errors import InputError
from ftreg.core.host import PluginHost
from ftreg.core.manifest import canonical_json
from ftreg.core.recipe import DataConfig, TrainConfig, apply_settings, validate
from ftreg.core.types import Progress
from ftreg.pipeline.inputs import is_path
from ftreg.registry import Registry

if TYPE_CHECKING:
    from ftreg.data import BadRow, Encoder
    from ftreg.data.check import Finding
    from ftreg.data.preview import Token
    from ftreg.data.stats import Lengths


@dataclass(frozen=True)
class DataReport:
    """What ``check`` found.

    Attributes:
        path: The file.
        format: Its row format.
        rows: How many rows it has.
        bad: The rows that cannot be used.
        warnings: Findings about usable rows that may harm training.
    """

    path: Path
    format: str
    rows: int
    bad: Sequence[BadRow]
    warnings: Sequence[Finding]

    def place(self, row: int) -> str:
        """Format where a row is: ``data.jsonl:17``."""
        from ftreg.data.rows import place

        return place(self.path, row)


@dataclass(frozen=True)
class DataStats:
    """What ``stats`` measured.

    Attributes:
        path: The file.
        format: Its row format.
        rows: How many rows it has.
        duplicates: Rows whose content an earlier row has.
        train: Examples of the training split.
        validation: Examples held out to watch the training.
        test: Examples held out for the final evaluation.
        lengths: How lengths are distributed, in ``characters`` and, with a base, in ``tokens`` and ``labelled tokens``.
    """

    path: Path
    format: str
    rows: int
    duplicates: int
    train: int
    validation: int
    test: int
    lengths: Mapping[str, Lengths]


@dataclass(frozen=True)
class RowPreview:
    """A row as the model will see it: its number in the file, and its tokens."""

    row: int
    tokens: Sequence[Token]


def check(
    path: str | Path,
    *,
    format: str = "auto",  # noqa: A002
    base: str | None = None,
    max_length: int | None = None,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    host: PluginHost | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Find every row of ``path`` that cannot be used, and whatever else may harm training.

    Args:
        path: A JSONL, JSON, CSV or Parquet file.
        format: The row format; ``auto`` detects it.
        base: A registry reference or a folder: also check what its tokenizer and chat template make of the rows.
        max_length: Tokens per sequence, as in ``train.max_length``.
        columns: For fields of the row format, the columns of the file to read them from: ``{"prompt": "Question"}``.
        settings: Keys of a recipe's data section, such as ``{"group_by": "intent"}``.
        host: The plugins whose row formats are known; by default those of the environment.
        registry: Where to find ``base``; by default the default registry.
        progress: Where to report progress.

    Raises:
        DataError: The file as a whole cannot be used.
    """
    from ftreg.data import read_data
    from ftreg.data.check import check_content, check_tokens

    config = _config(path, columns, settings)
    data = read_data(Path(path), format=format, columns=config.columns, host=host or PluginHost.from_environment())
    findings, bad = check_content(data, config), list(data.bad)
    if base is not None:
        with opened(registry, progress) as context:
            about_tokens, refused = check_tokens(data, _encoder(context, base, max_length, config))
        findings += about_tokens
        bad = sorted([*bad, *refused], key=lambda row: row.row)
    return DataReport(Path(path), data.format, len(data.examples) + len(data.bad), bad, findings)


def stats(
    path: str | Path,
    *,
    format: str = "auto",  # noqa: A002
    base: str | None = None,
    max_length: int | None = None,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    host: PluginHost | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> DataStats:
    """Measure ``path``: rows, lengths, repeated rows, and the sizes of its splits; arguments as for ``check``.

    Raises:
        DataError: The file, or a row of it, cannot be used.
    """
    from ftreg.data import load_examples, split_examples
    from ftreg.data.check import repeated
    from ftreg.data.stats import characters, measure

    config = _config(path, columns, settings)
    examples, name = load_examples(
        Path(path), format=format, columns=config.columns, host=host or PluginHost.from_environment()
    )
    splits = split_examples(examples, config, progress) if progress else split_examples(examples, config)
    lengths = {"characters": measure([characters(example) for example in examples])}
    if base is not None:
        with opened(registry, progress) as context:
            encoded = _encoder(context, base, max_length, config).encode_batch(examples)
        lengths["tokens"] = measure([len(item.input_ids) + item.cut for item in encoded])
        lengths["labelled tokens"] = measure([item.labelled for item in encoded])
    sizes = (len(splits.train), len(splits.validation), len(splits.test))
    return DataStats(Path(path), name, len(examples), len(repeated(examples)), *sizes, lengths)


def preview(
    path: str | Path,
    base: str,
    *,
    rows: int = 3,
    format: str = "auto",  # noqa: A002
    max_length: int | None = None,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    host: PluginHost | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> list[RowPreview]:
    """Return the tokens of the first ``rows`` of ``path`` as ``base`` will see them; arguments as for ``check``."""
    from ftreg.data import read_data
    from ftreg.data.preview import preview as tokens_of

    config = _config(path, columns, settings)
    with opened(registry, progress) as context:
        encoder = _encoder(context, base, max_length, config)
    data = read_data(Path(path), format=format, columns=config.columns, host=host or PluginHost.from_environment())
    first = zip(data.rows[:rows], data.examples, strict=False)
    return [RowPreview(row, tokens_of(encoder, example)) for row, example in first]


def write_stdlib(out: str | Path) -> int:
    """Write the docstrings of Python's standard library to the JSONL file ``out``; return how many there are."""
    from ftreg.data import stdlib_docstrings

    examples = stdlib_docstrings()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with Path(out).open("wb") as file:
        file.writelines(canonical_json({"text": example.text}) + b"\n" for example in examples)
    return len(examples)


def _config(path: str | Path, columns: Mapping[str, str] | None, settings: Mapping[str, Any] | None) -> DataConfig:
    raw = apply_settings({"columns": dict(columns or {})}, settings or {})
    return validate(DataConfig, {**raw, "path": str(path)}, where="data")


def _encoder(context: Context, base: str, max_length: int | None, config: DataConfig) -> Encoder:
    """The encoder of a base; raise ``InputError`` if there is no such base, or it has no tokenizer."""
    from ftreg.data import Encoder, read_template
    from ftreg.models.tokenizer import load_tokenizer

    folder = Path(base).expanduser() if is_path(base) else context.registry.source(base).path
    if not folder.is_dir():
        raise InputError("no such folder", where=f"base: {base}", hint="Give a registry reference or a folder.")
    length = max_length or TrainConfig().max_length
    return Encoder(load_tokenizer(folder), max_length=length, template=read_template(config.template))
