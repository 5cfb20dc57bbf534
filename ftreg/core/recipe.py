"""The recipe: what to train, on which data, how, and which steps follow; one schema for files and ``--set``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftreg.core.errors import RecipeError
from ftreg.core.names import check_name

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def _name(value: str) -> str:
    """Check a name for pydantic, which expects ``ValueError``."""
    try:
        return check_name(value)
    except Exception as error:
        raise ValueError(str(error)) from None


class Config(BaseModel):
    """The base of all configurations: unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class NoConfig(Config):
    """The configuration of a method or step without settings."""


class DataConfig(Config):
    """Which examples to train on and which to hold out."""

    path: str = Field(description="a JSONL, JSON, CSV or Parquet file, or a dataset in the registry")
    format: str = Field("auto", description="row format; auto detects it")
    template: str = Field("auto", description="chat template: auto (the tokenizer's, else plain), or a Jinja file")
    validation: Fraction = Field(0.1, description="share of examples held out to watch the training")
    test: Fraction = Field(0.0, description="share of examples held out for the final evaluation")
    group_by: str | None = Field(None, description="column whose values must each stay within one split")
    stratify_by: str | None = Field(None, description="column whose values are each spread over all splits")
    split_by: str | None = Field(None, description="column that names each row's split: train, validation or test")
    seed: int = Field(0, description="seed of the split")

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataConfig:
        if sum(key is not None for key in (self.group_by, self.stratify_by, self.split_by)) > 1:
            raise ValueError("group_by, stratify_by and split_by exclude one another")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class TrainConfig(Config):
    """The one trainer's configuration, the same for every method."""

    epochs: float = Field(1.0, gt=0, description="passes over the training examples")
    max_steps: int | None = Field(None, gt=0, description="stop after this many optimizer steps, whatever the epochs")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "one_cycle"] = Field(
        "cosine", description="learning-rate schedule"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps during which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(8, gt=0, description="sequences per device and forward pass")
    gradient_accumulation: int = Field(1, gt=0, description="forward passes per optimizer step")
    max_length: int = Field(1024, ge=8, description="tokens per sequence; longer examples are cut at the end")
    batching: Literal["grouped", "packed", "random"] = Field(
        "grouped", description="grouped: similar lengths together; packed: several examples per sequence; random"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto: bf16 on GPUs that have it")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    eval_every: float | None = Field(
        None, gt=0, description="steps (or share of them, below 1) between evaluations; by default a tenth of them"
    )
    save_every: float | None = Field(
        None, gt=0, description="steps (or share of them, below 1) between checkpoints; by default ten minutes"
    )
    early_stopping_patience: int | None = Field(
        None, gt=0, description="stop after this many evaluations without a better validation loss; keep the best"
    )
    seed: int = Field(0, ge=0, lt=2**32)


class StepCall(Config):
    """One step of ``then``.

    Attributes:
        step: The step's name.
        config: Its settings.
        source: The method or step whose result it works on (``from:``); by default the newest result that it can
            take.
        weight: The weight of that result among the step's inputs.
        others: Further versions of the registry to combine with it, with their weights (``with:``).
        name: The name of its result; by default the source's name with the step's suffix.
    """

    step: str
    config: dict[str, Any] = Field(default_factory=dict)
    source: str | None = None
    weight: float = Field(1.0, allow_inf_nan=False)
    others: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    name: Annotated[str, AfterValidator(_name)] | None = None


class Recipe(Config):
    """A training run and the steps that follow it.

    ``method_config`` is the section that has the method's name in the file; the method's plugin provides the model that
    validates it.
    """

    name: Annotated[str, AfterValidator(_name)]
    base: str
    data: DataConfig
    method: str
    method_config: dict[str, Any] = Field(default_factory=dict)
    train: TrainConfig = Field(default_factory=TrainConfig)
    tags: dict[str, str] = Field(default_factory=dict)
    then: tuple[StepCall, ...] = ()


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validate(model: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Validate ``values`` as ``model``; raise ``RecipeError`` naming the first bad key, with a "did you mean"."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        place = ".".join([where, *location]) if where else ".".join(location)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            known = _keys_at(model, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known))}."
            raise RecipeError(f"unknown key {location[-1]!r}{more}", where=place, hint=hint) from None
        if first["type"] == "missing":
            raise RecipeError(f"{location[-1]!r} is missing{more}", where=place, hint="Add it.") from None
        message = first["msg"].removeprefix("Value error, ")
        given = first["input"]
        shown = f", not {given!r}" if isinstance(given, str | int | float | bool) and location else ""
        raise RecipeError(f"{message}{shown}{more}", where=place) from None


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that ``model`` allows at ``location``."""
    current = model
    for part in location:
        field = current.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        current = inner
    return list(current.model_fields)


def parse_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Turn a recipe's raw mapping into a ``Recipe``; raise ``RecipeError`` for one that does not validate."""
    raw = dict(values)
    method = raw.get("method")
    if isinstance(method, str) and method not in Recipe.model_fields:
        section = raw.pop(method, None)
        if section is not None and not isinstance(section, Mapping):
            raise RecipeError("must be a mapping of settings", where=f"{where}.{method}")
        raw["method_config"] = dict(section or {})
    raw["then"] = [_parse_call(item, f"{where}.then[{index}]") for index, item in enumerate(_list(raw, "then", where))]
    if isinstance(raw.get("data"), str):
        raw["data"] = {"path": raw["data"]}
    return validate(Recipe, raw, where=where)


def _list(raw: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = raw.get(key) or []
    if not isinstance(value, list):
        raise RecipeError("must be a list", where=f"{where}.{key}")
    return value


def _parse_call(item: Any, where: str) -> StepCall:
    """Read ``merge``, ``quantize: {scheme: int8}`` or ``export: {format: onnx}``, the last being step ``onnx``."""
    if isinstance(item, str):
        return StepCall(step=item)
    if isinstance(item, Mapping) and len(item) == 1:
        (step, settings), *_ = item.items()
        if isinstance(step, str) and (settings is None or isinstance(settings, Mapping)):
            config = dict(settings or {})
            call = {
                "source": config.pop("from", None),
                "weight": config.pop("weight", 1.0),
                "others": _weights(config.pop("with", {})),
                "name": config.pop("name", None),
            }
            if step == "export":
                step = config.pop("format", "onnx")
            return validate(StepCall, {"step": step, "config": config, **call}, where=where)
    raise RecipeError("is no step", where=where, hint="Write '- merge' or '- quantize: {scheme: int8}'.")


def _weights(given: Any) -> Any:
    """Read ``with: bot:2``, ``with: [bot:2, other]`` or ``with: {bot:2: 0.5}`` as weights by reference."""
    if isinstance(given, str):
        given = [given]
    return dict.fromkeys(given, 1.0) if isinstance(given, list) else given


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file into a raw mapping; raise ``RecipeError`` for a file that is no YAML mapping."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError("no such recipe", where=str(path), hint="Give the path of a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", where=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"is not YAML: {getattr(error, 'problem', error)}", where=place) from None
    if not isinstance(raw, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=str(path), hint="See README: A recipe.")
    return raw


def apply_settings(raw: dict[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """Return ``raw`` with each ``--set a.b=value`` put in; values are read as YAML, so ``3`` is a number."""
    result: dict[str, Any] = dict(raw)
    for key, text in settings.items():
        *sections, last = key.split(".")
        target = result
        for section in sections:
            inner = target.get(section)
            if inner is not None and not isinstance(inner, dict):
                raise RecipeError(f"{section!r} holds a value, not settings", where=f"--set {key}")
            target[section] = dict(inner or {})
            target = target[section]
        try:
            target[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RecipeError(f"{text!r} cannot be read as a value", where=f"--set {key}") from None
    return result
