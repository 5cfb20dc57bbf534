"""Golden prompts: questions with properties that every version of a name has to give its answers.

They are a version of their own, of kind ``golden`` and called ``NAME-golden``: immutable and numbered like everything
else, so that the evidence of a run says by digest which prompts were passed, and a model does not change when its tests
do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import Field, field_validator, model_validator

from ftreg.context import Context
from ftreg.core.errors import DataError, InputError, MissingExtra, UnknownName
from ftreg.core.manifest import Producer, canonical_json
from ftreg.core.recipe import Config, validate
from ftreg.core.requirements import Requirement
from ftreg.core.text import read_text
from ftreg.core.types import Engine, Example, Message, Version
from ftreg.core.yaml12 import read_yaml
from ftreg.data import Encoder
from ftreg.data.rows import read_rows
from ftreg.pipeline.engines import engine_key, open_engine
from ftreg.registry import Draft, goldens_of

GOLDEN = "golden"
"""The kind of golden prompts, and the type of the evidence that they were run."""

_FILE = "goldens.json"
_BATCH = 16
_JSONSCHEMA = Requirement("jsonschema", "ftreg[eval]")


class Turn(Config):
    """A turn of a golden prompt."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Golden(Config):
    """A prompt, and what its greedy answer must be like; white space at the answer's ends does not count."""

    name: str = Field("", description="how it is called in results; by default its number")
    prompt: str | None = Field(None, description="what the user says; or messages")
    messages: list[Turn] = Field([], description="the chat to continue, in the place of a prompt")
    equals: str | None = Field(None, description="the answer")
    contains: list[str] = Field([], description="texts that the answer must contain")
    excludes: list[str] = Field([], description="texts that it must not contain")
    matches: str | None = Field(None, description="regular expression that must match somewhere in it")
    is_json: bool = Field(False, alias="json", description="the whole answer must be JSON")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="JSON Schema that it must match as JSON")
    max_words: int | None = Field(None, ge=1, description="most words that it may have")
    max_new_tokens: int = Field(256, ge=1, description="longest answer in tokens; a longer one is cut and then checked")

    @field_validator("contains", "excludes", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _asks_and_expects(self) -> Golden:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("write either prompt or messages")
        expected = (self.equals, self.contains, self.excludes, self.matches, self.is_json, self.schema_, self.max_words)
        if all(one is None or one is False or one == [] for one in expected):
            raise ValueError(
                "nothing is expected: write equals, contains, excludes, matches, json, schema or max_words"
            )
        return self

    @property
    def example(self) -> Example:
        """The prompt as an example without an answer."""
        turns = self.messages or [Turn(role="user", content=self.prompt or "")]
        return Example(messages=tuple(Message(turn.role, turn.content) for turn in turns))


@dataclass(frozen=True)
class GoldenResult:
    """What a version answered to a golden prompt.

    Attributes:
        name: The golden prompt's name.
        answer: The answer.
        problems: What is wrong with it; empty if it is as expected.
    """

    name: str
    answer: str
    problems: Sequence[str]


@dataclass(frozen=True)
class GoldenRun:
    """How a version did on the golden prompts of its name.

    Attributes:
        ref: The version.
        goldens: The golden prompts' version.
        results: One for each prompt.
    """

    ref: str
    goldens: str
    results: Sequence[GoldenResult]

    @property
    def failed(self) -> int:
        """How many prompts were not answered as expected."""
        return sum(bool(result.problems) for result in self.results)


def publish_goldens(context: Context, name: str, file: Path) -> Version:
    """Register the golden prompts in ``file`` as the newest of ``name``.

    Raises:
        InputError: No version has this name.
        DataError: The file cannot be read, or a prompt cannot be used.
    """
    context.registry.list(name=name, limit=1)
    goldens = read_goldens(file)
    rows = [golden.model_dump(mode="json", by_alias=True, exclude_defaults=True) for golden in goldens]
    with context.registry.staging() as staging:
        (staging.files / _FILE).write_bytes(canonical_json(rows))
        draft = Draft(
            folder=staging.files,
            kind=GOLDEN,
            producer=Producer("import", GOLDEN, "core", "ftreg", ""),
            facts={"prompts": len(rows)},
            evidence=[("import", {"file": file.name})],
        )
        return context.registry.publish(goldens_of(name), draft)


def read_goldens(file: Path) -> list[Golden]:
    """Read golden prompts from YAML, JSON Lines or JSON; raise ``DataError`` for the first that cannot be used."""
    rows: Sequence[tuple[int, Any]]
    rows = _read_yaml(file) if file.suffix.lower() in (".yaml", ".yml") else list(read_rows(file))
    goldens = []
    for number, row in rows:
        where = f"{file}, prompt {number}"
        if isinstance(row, DataError):
            raise DataError(row.message, where=where)
        goldens.append(_golden(row, number, where))
    names = [golden.name for golden in goldens]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two prompts are called {name!r}", where=str(file), hint="Give each a name of its own.")
    return goldens


def _read_yaml(file: Path) -> list[tuple[int, Any]]:
    import yaml

    try:
        rows = read_yaml(read_text(file, DataError))
    except yaml.YAMLError as error:
        raise DataError(f"is not YAML: {' '.join(str(error).split())}", where=str(file)) from None
    if not isinstance(rows, list) or not rows:
        raise DataError("holds no list of prompts", where=str(file), hint="Start each prompt with: - prompt: …")
    return list(enumerate(rows, start=1))


def _golden(row: Any, number: int, where: str) -> Golden:
    """Validate a prompt, and give it a name."""
    if not isinstance(row, Mapping):
        raise DataError("is not a mapping with a prompt", where=where)
    golden = validate(Golden, {"name": str(number), **row}, where=where)
    if golden.schema_ is not None:
        _check_schema(golden.schema_, where)
    return golden


def _check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Raise ``DataError`` if ``schema`` is not a JSON Schema."""
    if not _JSONSCHEMA.is_installed:
        raise MissingExtra("a golden prompt with a schema", _JSONSCHEMA.distribution, _JSONSCHEMA.install)
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise DataError(f"schema is not a JSON Schema: {error.message}", where=where) from None


def run_goldens(context: Context, ref: str, *, engine: str | None = None, again: bool = False) -> GoldenRun:
    """Answer the newest golden prompts of a version's name, and keep the results as evidence on its digest.

    Results that are on record for the same prompts, engine and packages are taken from there, unless ``again``.

    Raises:
        InputError: The name has no golden prompts, or the version cannot be run.
    """
    source = context.registry.source(ref)
    name = context.registry.get(ref).name
    try:
        stored = context.registry.source(goldens_of(name))
    except UnknownName:
        hint = f"Give it some: `ftreg.set_goldens({name!r}, 'goldens.yaml')`"
        raise InputError(f"{name} has no golden prompts", hint=hint) from None
    run = {"goldens": stored.digest, "engine": engine_key(context.host, source, engine)}
    for record in reversed(context.registry.evidence(source.digest)):
        if not again and record.type == GOLDEN and all(record.body[key] == value for key, value in run.items()):
            context.progress.say(f"{ref} was run on {stored.ref} on {record.at[:10]}: the results on record are shown")
            return GoldenRun(source.ref, stored.ref, [GoldenResult(**result) for result in record.body["results"]])
    rows = json.loads((stored.path / _FILE).read_text(encoding="utf-8"))
    goldens = [Golden(**row) for row in rows]
    with open_engine(context, source, name=engine) as loaded:
        answers = _answers(context, loaded, goldens)
    results = [
        GoldenResult(golden.name, answer, problems_of(golden, answer))
        for golden, answer in zip(goldens, answers, strict=True)
    ]
    found = GoldenRun(source.ref, stored.ref, results)
    body = {
        **run,
        "passed": len(results) - found.failed,
        "failed": found.failed,
        "results": [{"name": one.name, "answer": one.answer, "problems": list(one.problems)} for one in results],
    }
    context.registry.add_evidence(source.ref, GOLDEN, body)
    return found


def _answers(context: Context, engine: Engine, goldens: Sequence[Golden]) -> list[str]:
    """Answer the prompts greedily, those of the same length limit together."""
    encoder = Encoder(engine.tokenizer, max_length=engine.tokenizer.model_max_length)
    answers: dict[int, str] = {}
    context.progress.begin("answering golden prompts", len(goldens), unit="prompts")
    order = sorted(range(len(goldens)), key=lambda index: goldens[index].max_new_tokens)
    while order:
        limit = goldens[order[0]].max_new_tokens
        batch = [index for index in order[:_BATCH] if goldens[index].max_new_tokens == limit]
        order = order[len(batch) :]
        prompts = [encoder.prompt(goldens[index].example)[0] for index in batch]
        for index, ids in zip(batch, engine.generate(prompts, max_new_tokens=limit), strict=True):
            answers[index] = engine.tokenizer.decode(ids, skip_special_tokens=True)
        context.progress.update(len(answers))
    context.progress.end()
    return [answers[index] for index in range(len(goldens))]


def problems_of(golden: Golden, answer: str) -> list[str]:
    """Say what of an answer is not as expected."""
    text = answer.strip()
    found = []
    if golden.equals is not None and text != golden.equals.strip():
        found.append(f"it is not {golden.equals.strip()!r}")
    found += [f"it does not contain {part!r}" for part in golden.contains if part not in text]
    found += [f"it contains {part!r}" for part in golden.excludes if part in text]
    if golden.matches is not None and not re.search(golden.matches, text):
        found.append(f"nothing in it matches {golden.matches!r}")
    if golden.is_json or golden.schema_ is not None:
        found += _json_problems(text, golden.schema_)
    if golden.max_words is not None and (words := len(text.split())) > golden.max_words:
        found.append(f"it has {words} words, more than {golden.max_words}")
    return found


def _json_problems(text: str, schema: Mapping[str, Any] | None) -> list[str]:
    """Say why a text is not JSON (RFC 8259), or does not match a schema; documents elsewhere are not fetched."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return ["it is not JSON"]
    if schema is None:
        return []
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = validator_for(schema)(schema, registry=Registry())
    try:
        error = next(validator.iter_errors(value), None)
    except Unresolvable as missing:
        return [f"the schema refers to {missing.ref}, which it does not contain"]
    return [] if error is None else [f"it does not match the schema: {error.message}"]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
