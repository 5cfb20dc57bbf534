"""Specs: what a plugin says of itself without loading anything heavy.

A spec is a frozen record. ``impl`` and ``config`` are import strings (``"package.module:attribute"``), resolved when the
thing is used and not before, so that listing plugins imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Requirement:
    """An importable name that a spec's ``impl`` needs, and what to ``pip install`` to have it."""

    package: str
    install: str


@dataclass(frozen=True)
class Spec:
    """What all specs share.

    Attributes:
        name: How users call it.
        summary: One line for lists and help.
        impl: Import string of what does the work.
        requires: Packages that must be there before ``impl`` is imported.
    """

    what: ClassVar[str] = "spec"

    name: str
    summary: str
    impl: str
    requires: tuple[Requirement, ...] = ()


@dataclass(frozen=True)
class MethodSpec(Spec):
    """A training method; ``impl`` is a ``Method``.

    Attributes:
        config: Import string of the pydantic model of its configuration: the schema for recipes, ``--set`` and docs.
        produces: The kind of artifact it makes.
        accepts: Kinds of base it trains on.
        tasks: What its models can be for.
        capabilities: What can be done with what it makes (``mergeable``, ``mixed-batch``) and how it trains
            (``quantized-base``, ``gradient-checkpointing``, ``from-scratch``). Whole pipelines are checked against these
            before training starts.
    """

    what: ClassVar[str] = "method"

    config: str = "ftreg.core.recipe:NoConfig"
    produces: str = "checkpoint"
    accepts: tuple[str, ...] = ("checkpoint",)
    tasks: tuple[str, ...] = ("text-generation",)
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StepSpec(Spec):
    """A post-processing step; ``impl`` is a ``Step``.

    Attributes:
        config: Import string of the pydantic model of its configuration.
        accepts: Kinds of source it works on.
        produces: The kind of artifact it makes.
        needs: Capabilities that the method or step which made the source must have.
        capabilities: Capabilities of what it makes.
        suffix: Added to the source's name for the default name of the result.
    """

    what: ClassVar[str] = "step"

    config: str = "ftreg.core.recipe:NoConfig"
    accepts: tuple[str, ...] = ("checkpoint",)
    produces: str = "checkpoint"
    needs: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    suffix: str = ""


@dataclass(frozen=True)
class EngineSpec(Spec):
    """An inference engine; ``impl`` is a function ``(source, device) -> Engine``.

    Attributes:
        kinds: Kinds of artifact it can load.
    """

    what: ClassVar[str] = "engine"

    kinds: tuple[str, ...] = ("checkpoint",)


@dataclass(frozen=True)
class FormatSpec(Spec):
    """A dataset row format; ``impl`` is a ``Format``.

    Attributes:
        columns: Example columns, for help.
    """

    what: ClassVar[str] = "format"

    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricSpec(Spec):
    """A metric over generated answers; ``impl`` is a ``Metric``.

    Attributes:
        higher_is_better: Which way is better.
    """

    what: ClassVar[str] = "metric"

    higher_is_better: bool = True


@dataclass(frozen=True)
class CommandSpec(Spec):
    """A further command of the ``ftreg`` command line; ``impl`` is a ``click.Command``."""

    what: ClassVar[str] = "command"
