"""Settings of the built-in metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ftreg.core.recipe import Config


class BleuConfig(Config):
    """How BLEU compares words."""

    tokenize: Literal["13a", "intl", "zh", "char", "none"] = Field(
        "13a", description="sacrebleu's tokenizer: 13a as WMT, intl for scripts beyond Latin, zh for Chinese, char"
    )
    lowercase: bool = Field(False, description="compare without regard to case")


class ChrfConfig(Config):
    """How chrF compares characters."""

    word_order: int = Field(0, ge=0, description="longest word n-gram: 0 for chrF, 2 for chrF++")
    lowercase: bool = Field(False, description="compare without regard to case")


class RougeConfig(Config):
    """How ROUGE compares words."""

    stemmer: bool = Field(False, description="compare English words by their stems (Porter)")


class ClassificationConfig(Config):
    """Where the labels are."""

    labels: list[str] = Field([], description="the labels; by default those that the references have")
    column: str | None = Field(
        None,
        description="column of the data that holds the expected label; by default it is the expected answer",
    )
    field: str | None = Field(
        None, description="field of a JSON answer that holds the label, such as intent; by default all of the answer"
    )


class JsonConfig(Config):
    """What a JSON answer has to look like."""

    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="JSON Schema that answers should match: a file, or the schema itself"
    )

    @field_validator("schema_", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Read a file, so that what is recorded is the schema and not a path; check that it is a schema."""
        if isinstance(value, str | Path):
            try:
                value = json.loads(Path(value).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ValueError(f"{value} cannot be read as JSON: {error}") from None
        if isinstance(value, dict):
            _check_schema(value)
        return value


def _check_schema(schema: dict[str, Any]) -> None:
    """Raise ``ValueError`` if ``schema`` is not a JSON Schema."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"this is not a JSON Schema: {error.message}") from None
