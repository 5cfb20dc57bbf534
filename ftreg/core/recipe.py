"""The recipe: what to train, on which data, how, and which steps follow; one schema for files and ``--set``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ftreg.core.errors import RecipeError
from ftreg.core.names import check_name, nearest_name
from ftreg.core.requirements import Requirement
from ftreg.core.text import read_text
from ftreg.core.validation import first_problem, without_none
from ftreg.core.yaml12 import read_yaml

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def _name(value: str) -> str:
    """Check a name for pydantic, which expects ``ValueError``."""
    try:
        return check_name(value)
    except Exception as error:
        raise ValueError(str(error)) from None


class Config(BaseModel):
    """The base of all configurations: no value can be changed, and no key is ignored.

    Unknown keys are errors, and so are settings that do nothing beside the others. Defaults are validated too, so that
    a configuration that was recorded is read back as the same values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @property
    def given(self) -> list[str]:
        """The settings that were given, unless as null, which leaves the choice to ftreg."""
        return [
            name
            for name in type(self).model_fields
            if name in self.model_fields_set and getattr(self, name) is not None
        ]

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Return settings that do nothing beside the values of others, each time after what they are for.

        Such as ``("scheme gptq", ("bits", "group_size"))``. They are refused if they are given, and not recorded.
        """
        return ()

    def requires(self) -> tuple[Requirement, ...]:
        """Return what these settings need beside what their method, step or metric needs.

        It is recorded with the result like that, and settings are refused while it is not installed.
        """
        return ()

    @model_validator(mode="after")
    def _refuse_unused(self) -> Self:
        for purpose, names in self.unused():
            given = [name for name in self.given if name in names]
            if given:
                are, them = ("are", "them") if len(given) > 1 else ("is", "it")
                raise ValueError(f"{' and '.join(given)} {are} only for {purpose}; leave {them} out")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = {name for _, names in self.unused() for name in names}
        return {name: value for name, value in serialize(self).items() if name not in unused}


class NoConfig(Config):
    """The configuration of a method, step or metric without settings."""


class DataConfig(Config):
    """Which examples to train on and which to hold out."""

    path: str = Field(description="a JSONL, JSON, CSV, TSV or Parquet file, or a dataset in the registry")
    format: str = Field("auto", description="row format; auto detects it from the columns")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="field of the row format -> column of the file, such as {prompt: Question, response: Answer}; "
        "only for columns with other names than the format's",
    )
    template: str = Field(
        "auto", description="chat template: auto (the tokenizer's own, or else a plain one) or the path of a Jinja file"
    )
    validation: Fraction = Field(
        0.1, description="share of the examples held out to watch the training; 0.05 to 0.2, or 0 for none"
    )
    test: Fraction = Field(
        0.0, description="share of the examples held out for the final evaluation; 0.1 to 0.2, or 0 for none"
    )
    group_by: str | None = Field(
        None, description="column whose values each stay within one split, such as a user or a document"
    )
    stratify_by: str | None = Field(
        None, description="column whose values are each spread over all splits, such as a topic"
    )
    split_by: str | None = Field(
        None, description="column that names each row's split: train, validation or test; replaces the shares"
    )
    seed: int = Field(0, description="seed of the split; any whole number")

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """A column that names each row's split leaves nothing to draw."""
        if self.split_by is not None:
            yield "a split by shares, without split_by", ("validation", "test", "seed")

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataConfig:
        if sum(key is not None for key in (self.group_by, self.stratify_by, self.split_by)) > 1:
            raise ValueError("only one of group_by, stratify_by and split_by can be set")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class TrainConfig(Config):
    """The trainer's configuration, the same for every method."""

    epochs: float = Field(
        1.0, gt=0, description="passes over the training examples; 1 to 3 for thousands, 5 to 20 for a few hundred"
    )
    max_steps: int | None = Field(
        None, gt=0, description="stop after this many optimizer steps, whatever epochs says; for tries, 10 to 100"
    )
    learning_rate: float = Field(
        2e-4,
        gt=0,
        description="peak learning rate; lora and qlora 1e-4 to 5e-4, full 1e-5 to 5e-5, prefix 1e-3 to 3e-2",
    )
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "one_cycle"] = Field(
        "cosine", description="how the learning rate changes over the steps; linear, cosine and one_cycle end near 0"
    )
    warmup: float = Field(
        0.03, ge=0, lt=1, description="share of the steps during which the learning rate rises; 0 to 0.1"
    )
    weight_decay: float = Field(
        0.0, ge=0, description="decay of the weights per step, times the learning rate; 0 to 0.1, 0 for adapters"
    )
    optimizer: Literal["adamw", "sgd", "adafactor"] = Field(
        "adamw",
        description="adamw fits nearly always; adafactor and sgd need less memory, sgd a far higher learning rate",
    )
    adam_beta2: float = Field(
        0.999, gt=0, lt=1, description="decay of AdamW's second moment; 0.95 to 0.999, lower if the loss spikes"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="norm that gradients are clipped to; 0.3 to 1, lower if the loss spikes"
    )
    batch_size: int = Field(8, gt=0, description="sequences per forward pass; 1 to 64, as many as fit into memory")
    gradient_accumulation: int = Field(
        1, gt=0, description="forward passes per optimizer step; raise it to 2 to 32 when batch_size must be small"
    )
    max_length: int = Field(
        1024, ge=8, description="tokens per sequence, 256 to the model's limit; longer examples are cut at the end"
    )
    batching: Literal["grouped", "packed", "random"] = Field(
        "grouped",
        description="grouped: sequences of similar length together; packed: several examples per sequence, faster for "
        "many short ones; random: any order",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the matrix products; auto: bf16 on CUDA GPUs that have it, else fp16; fp32 elsewhere"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="what to train on; auto: a CUDA GPU, else Apple's, else the CPU"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations instead of keeping them: less memory, about 30% more time"
    )
    eval_every: float | None = Field(
        None,
        gt=0,
        description="steps (below 1: share of all steps) between evaluations on the validation split; 0.02 to 0.25, "
        "by default 0.1",
    )
    save_every: float | None = Field(
        None,
        gt=0,
        description="steps (below 1: share of all steps) between checkpoints; by default every one to ten minutes, so "
        "that writing them takes about 2% of the time",
    )
    early_stopping_patience: int | None = Field(
        None,
        gt=0,
        description="stop after so many evaluations without a better validation loss and keep the best weights; 2 to 5",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything random: order, dropout, fresh weights")

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Other optimizers have no second moment of AdamW's, and a constant rate does not rise."""
        if self.optimizer != "adamw":
            yield "optimizer adamw", ("adam_beta2",)
        if self.schedule == "constant":
            yield "other schedules than constant", ("warmup",)


class DistillationConfig(Config):
    """Settings of distillation: a student learns the probabilities that a teacher gives to each next token."""

    teacher: str = Field(
        description="model to learn from, with the same vocabulary as the base: a reference to a checkpoint or an "
        "adapter, a folder, or hf:org/name@revision"
    )
    temperature: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="the logits of both models are divided by it before they are compared; 1: the probabilities as "
        "they are, 2 to 4: what the teacher finds less likely counts more",
    )
    divergence: Literal["forward", "reverse"] = Field(
        "forward",
        description="forward: KL(teacher || student), the student covers all that the teacher finds likely; reverse: "
        "KL(student || teacher), it keeps to what the teacher finds likely, which suits much smaller students "
        "(arXiv:2306.08543)",
    )
    label_weight: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the ordinary loss on the labels, the rest being the divergence from the teacher; 0 to "
        "0.5, 0 learns from the teacher alone",
    )


class ObjectiveConfig(Config):
    """What a training minimizes instead of the loss on the labels: a section with the objective's name."""

    distillation: DistillationConfig

    @property
    def name(self) -> str:
        """The objective's name."""
        return "distillation"

    @property
    def models(self) -> Mapping[str, str]:
        """References of the models that it needs beside the base, by the setting that names them.

        The settings' names are the roles of these models in the lineage.
        """
        return {"teacher": self.distillation.teacher}

    def settings(self) -> dict[str, Any]:
        """Return its settings as JSON without those references, since the lineage has the digests."""
        return self.distillation.model_dump(mode="json", exclude={"teacher"})


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
    validates it. Without ``objective``, the loss on the labels is minimized.
    """

    name: Annotated[str, AfterValidator(_name)]
    base: str
    data: DataConfig
    method: str
    method_config: dict[str, Any] = Field(default_factory=dict)
    objective: ObjectiveConfig | None = None
    train: TrainConfig = Field(default_factory=TrainConfig)
    tags: dict[str, str] = Field(default_factory=dict)
    then: tuple[StepCall, ...] = ()


ConfigT = TypeVar("ConfigT", bound=BaseModel)

_SHORT_FORMS: Mapping[str, str] = {"lr": "learning_rate", "bs": "batch_size", "wd": "weight_decay"}
"""What other tools call a setting, and its key here; only to suggest the key."""


Sections = Callable[[], Mapping[str, type[BaseModel]]]
"""Returns the models of the sections that plugins add to a recipe, by name; called only to suggest a key."""


def validate(model: type[ConfigT], values: Mapping[str, Any], *, where: str, sections: Sections = dict) -> ConfigT:
    """Validate ``values`` as ``model``.

    Args:
        model: The model.
        values: The values, as a file or a caller gives them.
        where: What the values are, for messages.
        sections: Further sections, whose keys are suggested too.

    Raises:
        RecipeError: The values do not validate; it names the first bad key, with a "did you mean".
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problem = first_problem(model, error)
        place = ".".join([where, *problem.key] if where else problem.key)
        message, hint = problem.message, None
        if problem.type == "extra_forbidden":
            message, hint = f"unknown key {problem.key[-1]!r}", _nearest_keys(model, problem.key, sections())
        elif problem.type == "missing":
            message, hint = f"{problem.key[-1]!r} is missing", "Add it."
        elif near := difflib.get_close_matches(str(problem.given), problem.choices, n=3):
            hint = f"Did you mean {' or '.join(near)}?"
        more = f" (and {problem.others} more)" if problem.others else ""
        raise RecipeError(f"{message}{more}", where=place, hint=hint) from None


def _nearest_keys(model: type[BaseModel], location: list[str], sections: Mapping[str, type[BaseModel]]) -> str:
    """The hint for an unknown key: the same key elsewhere, else the nearest ones beside it, else all beside it."""
    *section, key = location
    wanted = _SHORT_FORMS.get(key, key)
    known = [name for name in _keys_at(model, section) if name != "method_config"]  # files have the method's name
    inner = [f"{name}.{field}" for name in known for field in _keys_at(model, [*section, name])]
    if not section:
        known += sections
        inner += [f"{name}.{field}" for name, added in sections.items() for field in added.model_fields]
    near = [path for path in (*known, *inner) if path.rsplit(".", 1)[-1] == wanted]
    near = near or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known))}."


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that ``model`` allows at ``location``; none if a plain value is there."""
    current = model
    for part in location:
        field = current.model_fields.get(part)
        inner = without_none(field.annotation) if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        current = inner
    return [field.alias or name for name, field in current.model_fields.items()]


def parse_recipe(
    values: Mapping[str, Any], *, where: str = "recipe", model_of: Callable[[str], type[BaseModel] | None] | None = None
) -> Recipe:
    """Turn a recipe's raw mapping into a ``Recipe``.

    The method is ``lora`` by default, and the name consists of the data's and the method's: ``faq-lora`` for
    ``faq.jsonl``. A section under the name of a step holds settings for the steps of that name under ``then``.

    Args:
        values: The mapping.
        where: What it is, for messages.
        model_of: Returns the model of a method's or a step's settings, so that an unknown key of the recipe can be
            recognized as one of them.

    Raises:
        RecipeError: The recipe does not validate.
    """
    raw = dict(values)
    method = raw.setdefault("method", "lora")
    if isinstance(method, str) and method not in Recipe.model_fields:
        raw["method_config"] = _section(raw, method, where)
    calls = [_parse_call(item, f"{where}.then[{index}]") for index, item in enumerate(_list(raw, "then", where))]
    raw["then"] = calls
    # Settings of a step under its name, as --set prune.sparsity=0.2 puts them.
    for name in {call.step for call in calls}.intersection(raw).difference(Recipe.model_fields):
        section = _section(raw, name, where)
        raw["then"] = [_with_settings(call, section) if call.step == name else call for call in raw["then"]]
    if isinstance(raw.get("data"), str):
        raw["data"] = {"path": raw["data"]}
    if "name" not in raw and isinstance(raw.get("data"), Mapping) and isinstance(raw["data"].get("path"), str):
        raw["name"] = nearest_name(f"{Path(raw['data']['path']).stem.split(':')[0]}-{method}")

    for key in sorted(raw.keys() - Recipe.model_fields.keys()):
        if model_of is not None and model_of(key) is not None:
            hint = f"Take the section out: the method is {method}, and the steps are those under `then`."
            raise RecipeError(
                f"has settings of {key}, which this recipe does not use", where=f"{where}.{key}", hint=hint
            )

    def sections() -> dict[str, type[BaseModel]]:
        used = dict.fromkeys([str(method), *(call.step for call in calls)])
        return {name: model for name in used if model_of is not None and (model := model_of(name)) is not None}

    return validate(Recipe, raw, where=where, sections=sections)


def _section(raw: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Take a section of settings out of ``raw``; empty if there is none."""
    section = raw.pop(name, None)
    if section is not None and not isinstance(section, Mapping):
        raise RecipeError("must be a mapping of settings", where=f"{where}.{name}")
    return dict(section or {})


def _with_settings(call: StepCall, settings: Mapping[str, Any]) -> StepCall:
    return call.model_copy(update={"config": {**call.config, **settings}})


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
    raise RecipeError("is not a step", where=where, hint="Write '- merge' or '- quantize: {scheme: int8}'.")


def _weights(given: Any) -> Any:
    """Read ``with: bot:2``, ``with: [bot:2, other]`` or ``with: {bot:2: 0.5}`` as weights by reference."""
    if isinstance(given, str):
        given = [given]
    return dict.fromkeys(given, 1.0) if isinstance(given, list) else given


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file into a raw mapping; raise ``RecipeError`` if the file does not hold a YAML mapping."""
    if not path.exists():
        raise RecipeError("no such recipe", where=str(path), hint="Give the path of a YAML file.")
    try:
        raw = read_yaml(read_text(path, RecipeError))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"is not valid YAML: {getattr(error, 'problem', error)}", where=place) from None
    if not isinstance(raw, dict):
        raise RecipeError(
            "is not a mapping of keys to values, as a recipe is", where=str(path), hint="See docs/recipe.md."
        )
    return raw


def read_setting(text: str, *, where: str) -> Any:
    """Read the value of a setting: YAML, so that ``3`` is a number and ``[q, v]`` is a list."""
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        raise RecipeError(f"{text!r} cannot be read as a value", where=where) from None


def apply_settings(raw: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``raw`` with the value of each dotted key, such as ``train.epochs``, put in.

    Raises:
        RecipeError: A key leads into something that is not a section.
    """
    result: dict[str, Any] = dict(raw)
    for key, value in settings.items():
        *sections, last = key.split(".")
        target = result
        for section in sections:
            inner = target.get(section)
            if inner is not None and not isinstance(inner, Mapping):
                raise RecipeError(f"{section!r} is a value, not a section", where=key)
            target[section] = dict(inner or {})
            target = target[section]
        target[last] = value
    return result
