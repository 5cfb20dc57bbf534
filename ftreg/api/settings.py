"""Settings: what can be set in a recipe, of a method, a step, a metric or a suite, with type, default and meaning."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftreg.core.errors import UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.specs import MethodSpec, MetricSpec, StepSpec

# The parts of ftreg's own that have settings, and where their models are: importing one is only as heavy as it is.
_MODELS: Mapping[str, tuple[str, str]] = {
    "data": ("ftreg.core.recipe", "DataConfig"),
    "train": ("ftreg.core.recipe", "TrainConfig"),
    "distillation": ("ftreg.core.recipe", "DistillationConfig"),
    "init": ("ftreg.training", "BaseConfig"),
    "deployment": ("ftreg.serving.planning", "Request"),
    "lm-eval": ("ftreg.evaluation.harness.config", "HarnessConfig"),
}

# What ``--set`` takes before the settings of these.
_PREFIXES = {"data": "data.", "train": "train.", "distillation": "objective.distillation.", "lm-eval": "lm-eval."}

_BOUNDS: Mapping[str, str] = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: How it is written, such as ``train.epochs``.
        type: What it may be: ``integer > 0``, ``number or null``, ``int8 | nf4``.
        default: Its default as a recipe would write it; None if it has to be given.
        description: What it does.
    """

    key: str
    type: str
    default: str | None
    description: str


def names(host: PluginHost) -> list[str]:
    """Return what has settings: the parts of a recipe and of a deployment, suites, methods, steps and metrics."""
    return [*_MODELS, *(spec.name for kind in (MethodSpec, StepSpec, MetricSpec) for spec in host.specs(kind))]


def settings(name: str, host: PluginHost) -> list[Setting]:
    """Return the settings of ``name``, one of ``names(host)``, under the keys that ``--set`` takes for them.

    Raises:
        UnknownName: Nothing that has settings is called ``name``.
        MissingExtra: They cannot be known without a package that is not installed.
    """
    if name in _MODELS:
        module, model = _MODELS[name]
        schema = getattr(importlib.import_module(module), model).model_json_schema()
        return list(describe(schema, prefix=_PREFIXES.get(name, "")))
    specs: list[MethodSpec | MetricSpec] = [*host.specs(MethodSpec), *host.specs(MetricSpec)]
    for spec in specs:
        if spec.name == name:
            return list(describe(host.config_model(spec).model_json_schema(), prefix=f"{name}."))
    for step in host.specs(StepSpec):
        if step.name == name:
            return list(describe(host.config_model(step).model_json_schema()))
    raise UnknownName("method, step, metric or section", name, names(host))


def describe(schema: Mapping[str, Any], prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a pydantic model's JSON schema; those of a model inside it under dotted keys."""
    required = schema.get("required", ())
    for name, about in schema.get("properties", {}).items():
        inner = schema.get("$defs", {}).get(str(about.get("$ref", "")).rsplit("/", 1)[-1])
        if inner and "properties" in inner:
            yield from describe({"$defs": schema["$defs"], **inner}, f"{prefix}{name}.")
        else:
            default = None if name in required else _value(about.get("default"))
            yield Setting(f"{prefix}{name}", _type(about), default, about.get("description", ""))


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a setting in a few words: ``integer > 0``, ``number or null``, ``int8 | nf4``, ``list of string``."""
    if "enum" in schema:
        return " | ".join(_value(value) for value in schema["enum"])
    if "const" in schema:
        return _value(schema["const"])
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "mapping"
    bounds = [f"{sign} {_value(schema[bound])}" for bound, sign in _BOUNDS.items() if bound in schema]
    return " ".join([str(schema.get("type", "any")), " and ".join(bounds)]).strip()


def _value(value: Any) -> str:
    """A value as a recipe would write it."""
    if value is None or isinstance(value, bool | dict | list | tuple):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
