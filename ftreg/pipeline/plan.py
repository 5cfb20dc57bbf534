"""The plan: checks, before any work starts, that the steps of a recipe can follow the method and one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from ftreg.core.capabilities import FULL_PRECISION, GRADIENT_CHECKPOINTING, MERGEABLE, OBJECTIVES
from ftreg.core.errors import InfeasiblePlan, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.recipe import Recipe, StepCall
from ftreg.core.specs import MethodSpec, StepSpec
from ftreg.core.types import CHECKPOINT, ONNX


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan.

    Attributes:
        spec: The step.
        config: Its validated configuration.
        source: Its first input: -1 for the trained version, else the position of an earlier step.
        weight: The weight of that input.
        others: Further versions to combine with it, with their weights.
        name: The name of its result; None for the default.
    """

    spec: StepSpec
    config: BaseModel
    source: int
    weight: float = 1.0
    others: tuple[tuple[str, float], ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class Plan:
    """A recipe that was checked.

    Attributes:
        recipe: The recipe.
        method: Its method.
        method_config: The method's validated configuration.
        steps: Its steps, in order.
    """

    recipe: Recipe
    method: MethodSpec
    method_config: BaseModel
    steps: tuple[PlannedStep, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the results: that of the trained version, then that of each step's."""
        names = [self.recipe.name]
        for step in self.steps:
            names.append(step.name or result_name(names[step.source + 1], step.spec))
        return tuple(names)


@dataclass(frozen=True)
class Product:
    """What is known about a result, even before it exists.

    Attributes:
        what: What makes it: ``method``, ``step``, ``import`` or ``init``.
        maker: The method's or step's name.
        kind: What its files are.
        capabilities: What can be done with it.
        exists: Whether it is a version, not one that a plan will make.
        precision: How its weights are stored, if they are not in full precision.
    """

    what: str
    maker: str
    kind: str
    capabilities: frozenset[str]
    exists: bool = False
    precision: str = "quantized"

    def __str__(self) -> str:
        return "this one" if self.exists else f"the result of {self.what} {self.maker}"

    def without(self, capability: str) -> str:
        """Say what it is, since it lacks ``capability``."""
        return self.precision if capability == FULL_PRECISION else f"not {capability}"


def make_plan(host: PluginHost, recipe: Recipe, *, where: str = "recipe") -> Plan:
    """Check all of ``recipe``: names, configurations, installed packages, and whether each step is possible.

    Raises:
        UnknownName: No plugin provides a method or step of that name.
        RecipeError: A configuration does not validate.
        MissingExtra: A package that is needed is not installed.
        InfeasiblePlan: A step cannot work on any result before it.
    """
    method = host.get(MethodSpec, recipe.method, where=f"{where}.method")
    config = host.configure(method, recipe.method_config, where=f"{where}.{method.name}")
    trained = Product(method.what, method.name, method.produces, method.capabilities)
    check_training(recipe, method, where)
    return Plan(recipe, method, config, plan_steps(host, trained, recipe.then, where=f"{where}.then"))


def check_training(recipe: Recipe, method: MethodSpec, where: str) -> None:
    """Raise ``InfeasiblePlan`` if the method does not support the objective or a setting of the trainer."""
    if recipe.objective is not None and OBJECTIVES not in method.trains:
        raise InfeasiblePlan(
            f"method {method.name} does not follow an objective of the recipe",
            where=f"{where}.objective",
            hint="Choose another method, such as full or lora, or take the objective out.",
        )
    if recipe.train.gradient_checkpointing and GRADIENT_CHECKPOINTING not in method.trains:
        raise InfeasiblePlan(
            f"method {method.name} cannot train with gradient checkpointing",
            where=f"{where}.train.gradient_checkpointing",
            hint="Set it to false; a smaller train.batch_size saves memory too.",
        )


def plan_steps(host: PluginHost, trained: Product, calls: Sequence[StepCall], *, where: str) -> tuple[PlannedStep, ...]:
    """Check the steps after training, and choose for each the newest earlier result that it can work on."""
    products = [trained]
    planned: list[PlannedStep] = []
    for index, call in enumerate(calls):
        place = f"{where}[{index}]"
        spec = host.get(StepSpec, call.step, where=place)
        config = host.configure(spec, call.config, where=f"{place}.{call.step}")
        source = _find_source(spec, products, call, place)
        check_combines(spec, call.weight, len(call.others), where=place)
        others = tuple(call.others.items())
        planned.append(PlannedStep(spec, config, source - 1, call.weight, others, call.name))
        products.append(Product(spec.what, spec.name, spec.produces, spec.capabilities))
    return tuple(planned)


def result_name(source: str, spec: StepSpec) -> str:
    """Return the default name for the result of a step on a version of ``source``."""
    return f"{source}-{spec.suffix or spec.name}"


def check_combines(spec: StepSpec, weight: float, others: int, *, where: str) -> None:
    """Raise ``InfeasiblePlan`` if ``spec`` works on one version only, and there is a ``weight`` or are ``others``."""
    if (others or weight != 1.0) and spec.combines is None:
        raise InfeasiblePlan(
            f"step {spec.name} works on a single version and cannot combine several or weight one", where=where
        )


def obstacle(spec: StepSpec, product: Product) -> str | None:
    """Say why ``spec`` cannot work on ``product``; None if it can."""
    wanted = " or ".join(with_article(" ".join([*sorted(spec.needs), kind])) for kind in spec.accepts)
    if product.kind not in spec.accepts:
        return f"step {spec.name} needs {wanted}; {product} is {with_article(product.kind)}"
    missing = sorted(spec.needs - product.capabilities)
    if missing:
        return f"step {spec.name} needs {wanted}; {product} is {' and '.join(map(product.without, missing))}"
    return None


def with_article(noun: str) -> str:
    """Put "a" or "an" before a kind of version, with or without adjectives."""
    *adjectives, kind = noun.split(" ")
    noun = " ".join([*adjectives, "ONNX model" if kind == ONNX else kind])
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _find_source(spec: StepSpec, products: Sequence[Product], call: StepCall, place: str) -> int:
    """Return the position of the result that the step works on; raise ``InfeasiblePlan`` if there is none."""
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
    """Say what would make the step possible."""
    if CHECKPOINT in spec.accepts and any(MERGEABLE in product.capabilities for product in products):
        return "Put '- merge' before it."
    return "Remove the step, or choose another method; `registry.host.plugins` lists them."
