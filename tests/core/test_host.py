"""The plugin host in this process: what it accepts from plugins, and how it reports broken ones."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftreg.core.errors import FtregError, InputError, MissingExtra, PluginError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.recipe import NoConfig
from ftreg.core.specs import MethodSpec, MetricSpec, Requirement
from ftreg.core.types import Problem
from ftreg.plugin import hookimpl


@pytest.fixture
def host() -> PluginHost:
    """Create a host without third-party plugins."""
    return PluginHost(only=())


def plugin(name: str = "mine", **hooks: Any) -> SimpleNamespace:
    """Make a plugin of functions."""
    return SimpleNamespace(__name__=name, **{hook: hookimpl(function) for hook, function in hooks.items()})


def nothing() -> list[Any]:
    """Contribute nothing."""
    return []


def with_method(host: PluginHost, **fields: Any) -> MethodSpec:
    """Register a method in a plugin of its own, and return its spec."""
    spec = MethodSpec(**{"name": "mine", "summary": "s", "impl": "json:loads", **fields})
    assert host.register(plugin(ftreg_methods=lambda: [spec])).state == "active"
    return spec


def test_a_contribution_is_found_by_name(host: PluginHost) -> None:
    """A contribution is found by name, knows its plugin, and is imported when it is used."""
    spec = with_method(host)
    assert host.get(MethodSpec, "mine") is spec
    assert host.provider(spec).distribution == "this process"
    assert host.plugin("mine").provides == ("method mine",)
    assert host.load(spec)("[1]") == [1]
    assert host.config_model(spec) is NoConfig


def test_contributions_are_sorted_by_name(host: PluginHost) -> None:
    """Contributions are sorted with ftreg's own first, so that installing a plugin changes no default."""
    own = [spec.name for spec in host.specs(MetricSpec)]
    for name in ("zz", "aa"):
        spec = MetricSpec(name=name, summary="s", impl="m:f")
        host.register(plugin(name, ftreg_metrics=lambda spec=spec: [spec]))
    assert own == sorted(own)
    assert own
    assert [spec.name for spec in host.specs(MetricSpec)] == [*own, "aa", "zz"]


def test_an_unknown_name_proposes_the_nearest(host: PluginHost) -> None:
    """For a misspelt method, the error proposes the right name and says where the wrong one was given."""
    with_method(host, name="adalora")
    with pytest.raises(UnknownName, match=r"recipe\.method: no method named 'adalroa'\n  Did you mean adalora"):
        host.get(MethodSpec, "adalroa", where="recipe.method")


def test_one_name_may_be_a_method_and_a_metric(host: PluginHost) -> None:
    """A method and a metric may have the same name."""
    with_method(host, name="same")
    metric = MetricSpec(name="same", summary="s", impl="m:f")
    assert host.register(plugin("other", ftreg_metrics=lambda: [metric])).state == "active"
    assert host.get(MetricSpec, "same") is metric


def test_a_refused_plugin_leaves_nothing_behind(host: PluginHost) -> None:
    """A plugin that is refused after its hooks were registered is never called again."""
    called: list[str] = []
    gate = {"ftreg_check_version": lambda version: called.append("gate")}
    info = host.register(plugin("bad", ftreg_methods=lambda: ["rubbish"], **gate))
    assert info.state == "failed"
    assert host.gate("ftreg_check_version", version=None) == []
    assert called == []
    assert host.register(plugin("bad", ftreg_methods=nothing)).state == "active"


def test_the_same_module_twice(host: PluginHost) -> None:
    """A module that is registered twice is refused the second time."""
    module = plugin("first", ftreg_methods=nothing)
    host.register(module)
    module.__name__ = "second"
    assert host.register(module).reason == "second is already loaded as plugin 'first'"


def test_an_interrupt_is_not_swallowed(host: PluginHost) -> None:
    """Ctrl-C while plugins load is passed on."""

    def interrupted() -> list[MethodSpec]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.register(plugin(ftreg_methods=interrupted))


def test_what_needs_a_package_that_is_missing(host: PluginHost) -> None:
    """A missing package is named with the command that installs it, before anything is imported."""
    needs = (Requirement("json", "json"), Requirement("no_such.part", "ftreg[gone]"))
    spec = with_method(host, impl="no_such.part:f", requires=needs)
    assert host.missing(spec) == [needs[1]]
    for use in (host.require, host.load, host.config_model):
        with pytest.raises(MissingExtra, match=r"method mine needs no_such\.part(.|\n)*pip install 'ftreg\[gone\]'"):
            use(spec)


@pytest.mark.parametrize("impl", ["no_such_module:f", "json:no_such_function"])
def test_an_implementation_that_cannot_be_loaded(host: PluginHost, impl: str) -> None:
    """If an implementation cannot be imported, the error names the plugin and its distribution."""
    spec = with_method(host, impl=impl)
    with pytest.raises(PluginError, match=r"plugin mine \(this process\): method mine: cannot be loaded"):
        host.load(spec)


def test_gates_collect_problems(host: PluginHost) -> None:
    """Every gate is called with the arguments that it declares, and all problems are returned."""
    host.register(plugin("one", ftreg_check_promotion=lambda alias: [Problem(f"not {alias}")]))
    host.register(plugin("two", ftreg_check_promotion=lambda version, evidence: [Problem(version), *evidence]))
    host.register(plugin("three", ftreg_check_promotion=nothing))
    problems = host.gate("ftreg_check_promotion", version="v", alias="champion", evidence=[Problem("e")])
    assert {problem.message for problem in problems} == {"not champion", "v", "e"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ZeroDivisionError("x"), "ZeroDivisionError: x"),
        (SystemExit(0), "SystemExit: 0"),
        (None, "not a list of Problem"),
        (True, "not a list of Problem"),
        (["no"], "returned 'no', not a Problem"),
    ],
)
def test_a_gate_that_breaks_blocks(host: PluginHost, answer: Any, said: str) -> None:
    """A gate that raises, or returns something invalid, blocks, and the problem names it."""

    def gate(version: Any) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    host.register(plugin("strict", ftreg_check_version=gate))
    (problem,) = host.gate("ftreg_check_version", version=None)
    assert problem.message.startswith("the gate of plugin strict (this process) failed: ")
    assert said in problem.message
    assert "Repair the plugin" in problem.hint


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3)])
def test_an_observer_that_raises_is_ignored(
    host: PluginHost, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """If an observer raises, the others are still called, and the failure is logged in one line."""
    seen: list[str] = []

    def broken(run: Any) -> None:
        raise error

    host.register(plugin("before", ftreg_run_started=lambda run: seen.append(run)))
    host.register(plugin("broken", ftreg_run_started=broken))
    host.register(plugin("after", ftreg_run_started=lambda run: seen.append(run)))
    with caplog.at_level(logging.WARNING, logger="ftreg.plugins"):
        host.notify("ftreg_run_started", run="r")
    assert seen == ["r", "r"]
    assert "plugin broken: ftreg_run_started failed and was ignored" in caplog.text
    assert "Traceback" not in caplog.text


def test_the_first_plugin_that_knows_a_base_fetches_it(host: PluginHost) -> None:
    """The first plugin that returns a folder for a URI fetches the base; if none does, the result is None."""
    host.register(plugin("none", ftreg_resolve_base=lambda uri: None))
    host.register(plugin("mem", ftreg_resolve_base=lambda uri: Path("/m") if uri.startswith("mem:") else None))
    assert host.resolve_base("mem:x") == Path("/m")
    assert host.resolve_base("gopher:x") is None


@pytest.mark.parametrize(
    ("answer", "raised", "said"),
    [
        ("/a/string", PluginError, "returned str for 'mem:x', not a Path"),
        (
            OSError("no route"),
            PluginError,
            r"plugin mem \(this process\): ftreg_resolve_base\(uri\) raised OSError: no route",
        ),
        (InputError("no such bucket"), InputError, "no such bucket"),
    ],
)
def test_a_base_that_cannot_be_fetched(host: PluginHost, answer: Any, raised: type[FtregError], said: str) -> None:
    """An error that a plugin raises on purpose is passed on; for any other, the plugin is named."""

    def resolve(uri: str) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    host.register(plugin("mem", ftreg_resolve_base=resolve))
    with pytest.raises(raised, match=said):
        host.resolve_base("mem:x")
