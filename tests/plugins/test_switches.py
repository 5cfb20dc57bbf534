"""Choosing plugins: ``--no-plugin``, ``FTREG_PLUGINS`` and ``FTREG_TRACE_PLUGINS``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import ftreg
from tests.plugins.fakes import distribution, environment, listed

STEP = """
@hookimpl
def ftreg_steps():
    return [StepSpec(name="{0}-step", summary="s", impl="{0}:apply")]
"""
COMMAND = """
import click

@hookimpl
def ftreg_commands():
    return [CommandSpec(name="greet", summary="Say hello.", impl="greeter:greet"),
            CommandSpec(name="broken", summary="Cannot be loaded.", impl="greeter:no_such"),
            CommandSpec(name="strange", summary="Is no command.", impl="greeter:HELLO")]

HELLO = "hello"

@click.command()
@click.argument("who")
def greet(who):
    click.echo(f"{HELLO} {who}")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Install two third-party distributions with one plugin each, red and blue."""
    for name in ("red", "blue"):
        distribution(tmp_path, f"fake-{name}", {name: STEP.format(name)})
    return tmp_path


def _active(plugins: dict) -> set[str]:
    return {name for name, plugin in plugins.items() if plugin["state"] == "active"}


def test_no_plugin_leaves_one_out(folder: Path) -> None:
    """--no-plugin leaves out third-party and built-in plugins, and the list says why."""
    plugins = listed(folder, "--no-plugin", "red", "--no-plugin", "metrics")
    assert {"blue", "methods"} <= _active(plugins)
    for name in ("red", "metrics"):
        assert (plugins[name]["state"], plugins[name]["reason"]) == ("disabled", "on request")


def test_no_plugin_with_an_unknown_name(folder: Path) -> None:
    """An unknown name for --no-plugin is refused, and the nearest name is proposed."""
    failed = ftreg("--no-plugin", "rad", "plugins", "list", env=environment(folder), code=2)
    assert "--no-plugin: no plugin named 'rad'" in failed.stderr
    assert "Did you mean red" in failed.stderr
    assert failed.stdout == ""


def test_an_empty_ftreg_plugins_loads_no_third_party_plugin(folder: Path) -> None:
    """An empty FTREG_PLUGINS leaves out third-party plugins and keeps ftreg's own."""
    plugins = listed(folder, FTREG_PLUGINS="")
    assert not {"red", "blue"} & _active(plugins)
    assert {"methods", "post", "formats", "engines", "metrics"} <= _active(plugins)
    assert plugins["red"]["reason"] == "by FTREG_PLUGINS"


def test_ftreg_plugins_names_those_to_load(folder: Path) -> None:
    """FTREG_PLUGINS=blue loads that plugin and no other third-party one."""
    assert {"red", "blue"} & _active(listed(folder, FTREG_PLUGINS=" blue ,")) == {"blue"}


def test_ftreg_plugins_with_an_unknown_name(folder: Path) -> None:
    """An unknown name in FTREG_PLUGINS is refused."""
    failed = ftreg("plugins", "list", env=environment(folder, FTREG_PLUGINS="bleu"), code=2)
    assert "FTREG_PLUGINS: no plugin named 'bleu'" in failed.stderr


def test_trace(folder: Path) -> None:
    """FTREG_TRACE_PLUGINS=1 prints each call into a plugin, its result and its time; 0 prints nothing."""
    traced = ftreg("plugins", "list", "--json", env=environment(folder, FTREG_TRACE_PLUGINS="1"))
    assert "[plugin red] import red -> " in traced.stderr
    assert "[plugin red] ftreg_steps() -> [StepSpec(name='red-step'" in traced.stderr
    assert " ms)" in traced.stderr
    plain = ftreg("plugins", "list", "--json", env=environment(folder, FTREG_TRACE_PLUGINS="0"))
    assert plain.stderr == ""
    assert plain.stdout == traced.stdout


def test_a_command_of_a_plugin(tmp_path: Path) -> None:
    """A plugin's command is in the help, has help of its own, and runs; without the plugin it is unknown."""
    distribution(tmp_path, "fake-greeter", {"greeter": COMMAND})
    installed = environment(tmp_path)
    assert "greet" in ftreg("--help", env=installed).stdout
    assert "Say hello." in ftreg("--help", env=installed).stdout
    assert ftreg("greet", "you", env=installed).stdout == "hello you\n"
    assert "WHO" in ftreg("greet", "--help", env=installed).stdout
    assert "Say hello." not in ftreg("--no-plugin", "greeter", "--help", env=installed).stdout
    unknown = ftreg("--no-plugin", "greeter", "greet", "you", env=installed, code=2)
    assert "no command named 'greet'" in unknown.stderr


@pytest.mark.parametrize(("name", "said"), [("broken", "no_such"), ("strange", "is a str, not a click.Command")])
def test_a_command_that_cannot_be_run(name: str, said: str, tmp_path: Path) -> None:
    """A command that cannot be imported fails with one clear message."""
    distribution(tmp_path, "fake-greeter", {"greeter": COMMAND})
    failed = ftreg(name, env=environment(tmp_path), code=1)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
