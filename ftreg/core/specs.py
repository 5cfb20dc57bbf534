"""Specs: records with which a plugin describes its contributions without importing anything heavy.

A spec is frozen. ``impl`` and ``config`` are import strings (``"package.module:attribute"``) that are resolved on first
use, so that listing plugins does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from ftreg.core.errors import PluginError
from ftreg.core.requirements import Requirement

_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*", re.ASCII)
_IMPORT = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_SUFFIX = re.compile(r"(?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class Spec:
    """The base of all specs.

    Attributes:
        name: The name that users type.
        summary: One line for lists and help.
        impl: Import string of the implementation.
        requires: Distributions that must be installed before ``impl`` is imported.

    Raises:
        PluginError: A field is invalid; raised where the spec is created, so that its author sees the line.
    """

    what: ClassVar[str] = "spec"
    reserved: ClassVar[frozenset[str]] = frozenset()

    name: str
    summary: str
    impl: str
    requires: tuple[Requirement, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PluginError(f"{self.what} {self.name!r}: a name is a-z and 0-9, in parts joined by '-' or '_'")
        if self.name in self.reserved:
            raise PluginError(f"{self.what} {self.name!r}: the name means something else; choose another")
        if not isinstance(self.summary, str) or not self.summary.strip() or "\n" in self.summary:
            raise PluginError(f"{self.what} {self.name!r}: summary is not one line of text")
        self._check_import("impl", self.impl)
        self._check_all("requires", self.requires, tuple, Requirement)

    def _check_import(self, field: str, target: object) -> None:
        """Raise ``PluginError`` if ``target`` is not an import string."""
        if not isinstance(target, str) or not _IMPORT.fullmatch(target):
            raise PluginError(
                f"{self.what} {self.name!r}: {field} {target!r} is not an import string ('package.module:attribute')"
            )

    def _check_all(self, field: str, values: Iterable[object], container: type, item: type) -> None:
        """Raise ``PluginError`` if ``values`` is not a ``container`` of ``item``; a single string is not one."""
        if not isinstance(values, container) or not all(isinstance(value, item) for value in values):
            raise PluginError(
                f"{self.what} {self.name!r}: {field} is {values!r}, not a {container.__name__} of {item.__name__}"
            )


@dataclass(frozen=True)
class MethodSpec(Spec):
    """A training method; ``impl`` is a ``Method``.

    Attributes:
        config: Import string of the pydantic model of its configuration: the schema for recipes, ``--set`` and docs.
        produces: The kind of artifact that it makes.
        accepts: The kinds of base that it trains on.
        trains: How it can train, such as ``GRADIENT_CHECKPOINTING``; see ``ftreg.core.capabilities``.
        capabilities: What can be done with its results, such as ``MERGEABLE``. Recipes are checked against these
            before training starts; an ``Artifact`` may state others if the configuration changes them.
        check: Import string of a function ``(base, config) -> None`` that raises ``InputError`` if the method cannot
            train on the checkpoint in the folder ``base``. It is called before any work, and by ``--dry-run``, so it
            looks at the base's configuration only. None for no check.
    """

    what: ClassVar[str] = "method"
    # A recipe has a section with the method's name for its settings, beside these keys.
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"name", "base", "data", "method", "method_config", "objective", "train", "tags", "then"}
    )

    config: str = "ftreg.core.recipe:NoConfig"
    produces: str = "checkpoint"
    accepts: tuple[str, ...] = ("checkpoint",)
    trains: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    check: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_import("config", self.config)
        if self.check is not None:
            self._check_import("check", self.check)
        self._check_all("accepts", self.accepts, tuple, str)
        self._check_all("trains", self.trains, frozenset, str)
        self._check_all("capabilities", self.capabilities, frozenset, str)


@dataclass(frozen=True)
class StepSpec(Spec):
    """A post-processing step; ``impl`` is a ``Step``.

    Attributes:
        config: Import string of the pydantic model of its configuration.
        accepts: The kinds of version that it works on.
        produces: The kind of artifact that it makes.
        needs: Capabilities that each of its inputs must have.
        capabilities: What can be done with its results, as for a method.
        combines: The role, in the lineage, of further inputs after the first one (``--with``), such as ``adapter``;
            None if it works on one version only.
        suffix: Added to the source's name for the default name of the result.
        check: As for a method, for the checkpoint that the step works on. In a recipe, the step is checked before the
            training, with the training's base.
    """

    what: ClassVar[str] = "step"
    # In a recipe, `- export: {format: X}` is the step X.
    reserved: ClassVar[frozenset[str]] = frozenset({"export"})
    # A recipe has these keys beside the step's settings: its inputs, and the name of its result.
    keys: ClassVar[frozenset[str]] = frozenset({"from", "name", "weight", "with"})

    config: str = "ftreg.core.recipe:NoConfig"
    accepts: tuple[str, ...] = ("checkpoint",)
    produces: str = "checkpoint"
    needs: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    combines: str | None = None
    suffix: str = ""
    check: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_import("config", self.config)
        if self.check is not None:
            self._check_import("check", self.check)
        self._check_all("accepts", self.accepts, tuple, str)
        self._check_all("needs", self.needs, frozenset, str)
        self._check_all("capabilities", self.capabilities, frozenset, str)
        if self.combines is not None and (not isinstance(self.combines, str) or not _NAME.fullmatch(self.combines)):
            raise PluginError(f"{self.what} {self.name!r}: combines {self.combines!r} is not a valid role")
        if not isinstance(self.suffix, str) or not _SUFFIX.fullmatch(self.suffix):
            raise PluginError(f"{self.what} {self.name!r}: suffix {self.suffix!r} is not a valid end of a name")


@dataclass(frozen=True)
class EngineSpec(Spec):
    """An inference engine; ``impl`` is a function ``(source, device) -> Engine``.

    Attributes:
        kinds: The kinds of artifact that it can load.
        serve: Import string of a function ``(sources, device) -> list[ServingEngine]`` that loads versions to serve
            them; versions that share weights share an engine. None for an engine that only evaluates.
        check: Import string of a function ``(folder) -> None`` that raises ``InputError`` if the engine cannot load
            the files in a folder. It must be fast, so it looks at names and headers only: every result of a method or
            a step is checked with it before it is published. None for no check.
    """

    what: ClassVar[str] = "engine"

    kinds: tuple[str, ...] = ("checkpoint",)
    serve: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("serve", "check"):
            if getattr(self, field) is not None:
                self._check_import(field, getattr(self, field))
        self._check_all("kinds", self.kinds, tuple, str)


@dataclass(frozen=True)
class FormatSpec(Spec):
    """A dataset row format; ``impl`` is a ``Format``.

    Attributes:
        columns: The columns that it reads, also those that a row may lack; for help, and to check column mappings.
    """

    what: ClassVar[str] = "format"

    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_all("columns", self.columns, tuple, str)


@dataclass(frozen=True)
class MetricSpec(Spec):
    """A metric over generated answers; ``impl`` is a ``Metric``.

    Attributes:
        config: Import string of the pydantic model of its configuration.
        default: True if every evaluation computes it, also if it is not named. It should then be cheap, need no package
            that ftreg does not need, and mean something for any data.
        higher_is_better: True if higher figures are better, False if lower ones are, None if neither is.
    """

    what: ClassVar[str] = "metric"
    # The figures that every evaluation has.
    reserved: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity", "token_accuracy"})

    config: str = "ftreg.core.recipe:NoConfig"
    default: bool = False
    higher_is_better: bool | None = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_import("config", self.config)


ConfiguredSpec: TypeAlias = MethodSpec | StepSpec | MetricSpec
"""Those whose ``config`` is a pydantic model."""


@dataclass(frozen=True)
class CommandSpec(Spec):
    """A command that a plugin adds to the ``ftreg`` command line; ``impl`` is a ``click.Command``."""

    what: ClassVar[str] = "command"
