"""The plan: checks, before any work starts, that a method and the steps after it can follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftreg.core.errors import InfeasiblePlan, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.recipe import Recipe, StepCall, validate
from ftreg.core.specs import MethodSpec, StepSpec
from ftreg.core.types import CHECKPOINT

MERGEABLE = "mergeable"
"""Capability of adapters that can be merged into their base."""

FULL_PRECISION = "full-precision"
"""Capability of checkpoints whose weights are plain tensors, not packed into a quantized layout."""


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan: its spec, its validated configuration, and the index of what it works on.

    ``source`` is -1 for the trained version and else the position of an earlier step.
    """

    spec: StepSpec
    config: Any
    source: int
    name: str | None = None


@dataclass(frozen=True)
class Plan:
    """A recipe that is known to be feasible."""

    recipe: Recipe
    method: MethodSpec
    method_config: Any
    steps: tuple[PlannedStep, ...]


@dataclass(frozen=True)
class Product:
    """What is known of a result, even before it exists: what makes it, its kind and its capabilities.

    Attributes:
        what: What sort of thing makes it: ``method``, ``step`` or ``import``.
        maker: That method's or step's name.
        kind: Its artifact kind.
        capabilities: What can be done with it.
    """

    what: str
    maker: str
    kind: str
    capabilities: frozenset[str]

    def __str__(self) -> str:
        return f"{self.what} {self.maker}"


def make_plan(host: PluginHost, recipe: Recipe, *, where: str = "recipe") -> Plan:
    """Check the whole of ``recipe``: names, configurations, installed packages, and that each step is possible.

    Raises:
        UnknownName: A method or step that no plugin brings.
        RecipeError: A configuration that does not validate.
        MissingExtra: A package that is needed and not installed.
        InfeasiblePlan: A step that cannot work on what comes before it.
    """
    method = host.get(MethodSpec, recipe.method, where=f"{where}.method")
    config = validate(host.config_model(method), recipe.method_config, where=f"{where}.{method.name}")
    trained = Product(method.what, method.name, method.produces, method.capabilities)
    check_training(recipe, method, where)
    return Plan(recipe, method, config, plan_steps(host, trained, recipe.then, where=f"{where}.then"))


def check_training(recipe: Recipe, method: MethodSpec, where: str) -> None:
    """Raise ``InfeasiblePlan`` for trainer settings that the method cannot work with."""
    if recipe.train.gradient_checkpointing and "gradient-checkpointing" not in method.capabilities:
        raise InfeasiblePlan(
            f"method {method.name} cannot train with gradient checkpointing",
            where=f"{where}.train.gradient_checkpointing",
            hint="Set it to false; a smaller train.batch_size saves memory too.",
        )


def plan_steps(host: PluginHost, trained: Product, calls: Sequence[StepCall], *, where: str) -> tuple[PlannedStep, ...]:
    """Check the steps after training, and find for each what it works on: the newest result that it can take."""
    products = [trained]
    planned: list[PlannedStep] = []
    for index, call in enumerate(calls):
        place = f"{where}[{index}]"
        spec = host.get(StepSpec, call.step, where=place)
        config = validate(host.config_model(spec), call.config, where=f"{place}.{call.step}")
        source = _find_source(spec, products, call, place)
        planned.append(PlannedStep(spec, config, source - 1, call.name))
        products.append(Product(spec.what, spec.name, spec.produces, spec.capabilities))
    return tuple(planned)


def obstacle(spec: StepSpec, product: Product) -> str | None:
    """Why ``spec`` cannot work on ``product``; None where it can."""
    if product.kind not in spec.accepts:
        return f"step {spec.name} works on {' or '.join(spec.accepts)}, and {product} makes {product.kind}"
    missing = sorted(spec.needs - product.capabilities)
    if missing:
        return f"step {spec.name} needs what is {' and '.join(missing)}, and what {product} makes is not"
    return None


def _find_source(spec: StepSpec, products: Sequence[Product], call: StepCall, place: str) -> int:
    """Position in ``products`` of what the step works on; raise ``InfeasiblePlan`` where there is none."""
    positions = range(len(products) - 1, -1, -1)
    if call.source is not None:
        named = [position for position in positions if products[position].maker == call.source]
        if not named:
            raise UnknownName("earlier result", call.source, [p.maker for p in products], where=f"{place}.from")
        positions = range(named[0], named[0] - 1, -1)
    for position in positions:
        if obstacle(spec, products[position]) is None:
            return position
    raise InfeasiblePlan(
        str(obstacle(spec, products[positions[0]])), where=place, hint=f"Nothing was started. {_remedy(spec, products)}"
    )


def _remedy(spec: StepSpec, products: Sequence[Product]) -> str:
    """What would make the step possible."""
    if CHECKPOINT in spec.accepts and any(MERGEABLE in product.capabilities for product in products):
        return "Put '- merge' before it."
    return "Take the step out, or choose another method (ftreg plugins list)."
