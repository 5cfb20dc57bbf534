"""Settings of the built-in metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from blake3 import blake3
from pydantic import Field, field_serializer, field_validator, model_validator

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


class ScoresConfig(Config):
    """Where the scores are."""

    file: Path = Field(description="the scores: JSON Lines, JSON, CSV or Parquet, a row for each scored answer")
    key: str = Field(
        "example",
        description="column of file and data that tells which example a row scores; example is its number from 1",
    )
    criteria: list[str] = Field([], description="columns with scores; by default all but the key, example and answer")
    partial: bool = Field(False, description="allow examples without a score")

    @field_validator("file")
    @classmethod
    def _exists(cls, file: Path) -> Path:
        if not file.is_file():
            raise ValueError(f"{file} is not a file")
        return file

    @field_serializer("file")
    def _content(self, file: Path) -> str:
        """Record what the file says and not where it is."""
        return f"b3:{blake3(file.read_bytes()).hexdigest()}"


class JudgeConfig(Config):
    """Which model judges, and by what."""

    url: str = Field(description="address of an OpenAI-compatible API, such as http://localhost:8000/v1")
    model: str = Field(description="the model that judges, as its API calls it")
    criteria: dict[str, str] = Field(
        {
            "relevance": "the answer addresses the question",
            "helpfulness": "the answer helps the person who asks",
            "accuracy": "what the answer says is correct",
        },
        description="what to score, with what each means",
        min_length=1,
    )
    lowest: int = Field(1, description="the worst score")
    highest: int = Field(5, description="the best score; above the lowest")
    key_env: str = Field("FTREG_JUDGE_KEY", description="environment variable with the key, which is not recorded")
    # How the judge is reached changes no verdict, so the rest is not recorded with the figures.
    concurrency: int = Field(4, ge=1, le=64, exclude=True, description="answers that are judged at a time")
    retries: int = Field(4, ge=0, le=10, exclude=True, description="further attempts if the API is busy or not reached")
    backoff: float = Field(
        1.0,
        ge=0,
        le=60,
        exclude=True,
        description="seconds before the first further attempt, doubled each time",
    )
    timeout: float = Field(120.0, gt=0, le=3600, exclude=True, description="seconds to wait for a verdict")

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Without further attempts there is nothing to wait for."""
        if not self.retries:
            yield "one retry or more", ("backoff",)

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url} is not an address such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError("an address is recorded: put the key into the environment variable of key_env")
        return url

    @model_validator(mode="after")
    def _has_scale(self) -> JudgeConfig:
        if self.highest <= self.lowest:
            raise ValueError(f"highest is {self.highest}, which is not above lowest, {self.lowest}")
        if "failed" in self.criteria:
            raise ValueError("failed is the figure of answers without a verdict; call the criterion otherwise")
        return self


def _check_schema(schema: dict[str, Any]) -> None:
    """Raise ``ValueError`` if ``schema`` is not a JSON Schema."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"this is not a JSON Schema: {error.message}") from None
