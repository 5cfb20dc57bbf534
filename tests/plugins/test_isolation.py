"""Broken third-party distributions, on the command line: each is reported, and everything else works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import ftreg
from tests.plugins.fakes import distribution, environment, listed

GOOD = """
@hookimpl
def ftreg_methods():
    return [MethodSpec(name="good-method", summary="Works.", impl="good:train", produces="adapter")]

@hookimpl
def ftreg_run_started(run):
    pass
"""

METHOD = "@hookimpl\ndef ftreg_methods():\n    return "
SPEC = 'MethodSpec(name="{}", summary="s", impl="m:train")'

# What a plugin's module holds -> what the reason of its failure must say.
BROKEN = {
    "import-error": ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
    "syntax-error": ("def f(:\n    pass", "SyntaxError"),
    "exit-at-import": ("raise SystemExit(7)", "import failed: SystemExit: 7"),
    "base-exception": ("class Panic(BaseException): pass\nraise Panic('rust')", "import failed: Panic: rust"),
    "misspelt-hook": ("@hookimpl\ndef ftreg_method():\n    return []", "Did you mean ftreg_methods"),
    "unknown-hook": ("@hookimpl\ndef entirely_else():\n    return []", "no hook named 'entirely_else'"),
    "unmarked-hook": ("def ftreg_methods():\n    return []", "ftreg_methods is not marked with @hookimpl"),
    "no-hook": ("x = 1", "implements no hook"),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef ftreg_methods():\n    return (yield)",
        "is a hook wrapper",
    ),
    "extra-argument": ("@hookimpl\ndef ftreg_check_version(version, mood):\n    return []", "mood"),
    "argument-to-none": ("@hookimpl\ndef ftreg_methods(config):\n    return []", "config"),
    "raises-in-hook": ("@hookimpl\ndef ftreg_methods():\n    raise RuntimeError('boom')", "RuntimeError: boom"),
    "exits-in-hook": ("@hookimpl\ndef ftreg_methods():\n    raise SystemExit(3)", "SystemExit: 3"),
    "returns-none": (METHOD + "None", "ftreg_methods returned NoneType, not a list of MethodSpec"),
    "returns-spec": (METHOD + SPEC.format("m"), "ftreg_methods returned MethodSpec, not a list"),
    "returns-generator": (METHOD + "(s for s in [])", "ftreg_methods returned generator, not a list"),
    "returns-strings": (METHOD + "['lora2']", "ftreg_methods returned a str instead of a MethodSpec"),
    "returns-class": (METHOD + "[MethodSpec]", "ftreg_methods returned a type instead of a MethodSpec"),
    "wrong-kind": (
        METHOD + "[StepSpec(name='x', summary='s', impl='m:f')]",
        "ftreg_methods returned a StepSpec instead of a MethodSpec",
    ),
    "bad-import-string": (METHOD + "[MethodSpec(name='m', summary='s', impl='m.train')]", "'m.train' is not an import"),
    "bad-config": (
        METHOD + "[MethodSpec(name='m', summary='s', impl='m:f', config='m/config:C')]",
        "'m/config:C' is not an import string",
    ),
    "bad-name": (METHOD + f"[{SPEC.format('My Method')}]", "method 'My Method': a name is"),
    "reserved-name": (METHOD + f"[{SPEC.format('train')}]", "method 'train': the name means something else"),
    "string-for-tuple": (
        METHOD + "[MethodSpec(name='m', summary='s', impl='m:f', accepts='checkpoint')]",
        "accepts is 'checkpoint', not a tuple of str",
    ),
    "twice": (METHOD + f"[{SPEC.format('m')}, {SPEC.format('m')}]", "provides method 'm' twice"),
    "duplicates-built-in": (
        METHOD + f"[{SPEC.format('lora')}]",
        "method 'lora' is provided by both ftreg (plugin methods) and fake-broken (plugin broken)",
    ),
    "own-command": (
        "@hookimpl\ndef ftreg_commands():\n    return [CommandSpec(name='models', summary='s', impl='m:f')]",
        "command 'models' is one of ftreg's own",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_and_harms_no_other(case: str, tmp_path: Path) -> None:
    """A broken plugin is listed with distribution, version and reason, and the other plugins work."""
    source, expected = BROKEN[case]
    distribution(tmp_path, "fake-broken", {"broken": source}, version="2.3")
    distribution(tmp_path, "fake-good", {"good": GOOD})
    plugins = listed(tmp_path)
    broken = plugins.pop("broken")
    assert (broken["state"], broken["distribution"], broken["version"]) == ("failed", "fake-broken", "2.3")
    assert expected in broken["reason"]
    assert "\n" not in broken["reason"]
    assert broken["provides"] == []
    assert plugins["good"]["provides"] == ["method good-method", "ftreg_run_started"]
    assert {plugin["state"] for plugin in plugins.values()} == {"active"}


def test_a_failed_plugin_is_shown_to_people(tmp_path: Path) -> None:
    """The list and the details show a failed plugin with its distribution, version and reason, and exit with 0."""
    distribution(tmp_path, "fake-broken", {"broken": "raise ValueError('[/b] bad [day]')"}, version="2.3")
    for arguments in (["plugins", "list"], ["plugins", "info", "broken"]):
        shown = ftreg(*arguments, env=environment(tmp_path)).stdout
        for fact in ("broken", "fake-broken", "2.3", "failed", "ValueError: [/b] bad [day]"):
            assert fact in shown


def test_commands_do_not_mind_a_broken_plugin(tmp_path: Path) -> None:
    """With a broken plugin, help works, and an unknown name mentions the plugin that failed to load."""
    distribution(tmp_path, "fake-broken", {"ia4": "raise SystemExit"})
    assert "models" in ftreg("--help", env=environment(tmp_path)).stdout
    failed = ftreg("apply", "ia4", "m", home=tmp_path / "home", env=environment(tmp_path), code=2)
    assert "no step named 'ia4'" in failed.stderr
    assert "Failed to load: plugin ia4" in failed.stderr


def test_what_a_plugin_prints_does_not_spoil_the_facts(tmp_path: Path) -> None:
    """A plugin that prints while it loads leaves standard output valid JSON."""
    noisy = "print('hello')\n@hookimpl\ndef ftreg_methods():\n    print('again')\n    return []"
    distribution(tmp_path, "fake-noisy", {"noisy": noisy})
    done = ftreg("plugins", "list", "--json", env=environment(tmp_path))
    assert [plugin["state"] for plugin in json.loads(done.stdout) if plugin["name"] == "noisy"] == ["active"]
    assert "hello" in done.stderr
    assert "again" in done.stderr


def test_two_distributions_with_one_name(tmp_path: Path) -> None:
    """The second distribution with the same name fails, with both named; without the first one it works."""
    for name in ("first", "second"):
        distribution(tmp_path, f"fake-{name}", {name: METHOD + f"[{SPEC.format('same')}]"})
    plugins = listed(tmp_path)
    assert plugins["first"]["provides"] == ["method same"]
    assert plugins["second"]["state"] == "failed"
    assert "both fake-first (plugin first) and fake-second (plugin second)" in plugins["second"]["reason"]
    plugins = listed(tmp_path, "--no-plugin", "first")
    assert plugins["first"]["state"] == "disabled"
    assert plugins["second"]["provides"] == ["method same"]


def test_a_plugin_named_like_a_built_in_one(tmp_path: Path) -> None:
    """If a plugin has the name of a built-in one, the built-in one keeps it."""
    folder = distribution(tmp_path, "fake-copy", {"methods": METHOD + f"[{SPEC.format('other')}]"})
    plugins = json.loads(ftreg("plugins", "info", "methods", "--json", env=environment(folder)).stdout)
    assert [(plugin["distribution"], plugin["state"]) for plugin in plugins] == [
        ("ftreg", "active"),
        ("fake-copy", "failed"),
    ]
    assert "provided by both ftreg and fake-copy" in plugins[1]["reason"]


def test_unreadable_entry_points_are_one_failed_plugin(tmp_path: Path) -> None:
    """A distribution with unreadable entry points is reported as one failed plugin."""
    distribution(tmp_path, "fake-damaged", {})
    (tmp_path / "fake_damaged-1.0.dist-info" / "entry_points.txt").write_text("[ftreg]\nno equals sign\n")
    plugin = listed(tmp_path)["fake-damaged"]
    assert plugin["state"] == "failed"
    assert "entry_points.txt cannot be read" in plugin["reason"]


def test_an_older_copy_further_down_the_path_does_not_count(tmp_path: Path) -> None:
    """If a distribution is on the path twice, the first copy counts."""
    new = distribution(tmp_path / "new", "fake-good", {"good": GOOD}, version="2.0")
    old = distribution(tmp_path / "old", "fake-good", {"gone": GOOD}, version="1.0")
    done = ftreg("plugins", "list", "--json", env={"PYTHONPATH": f"{new}:{old}"})
    found = [
        (plugin["name"], plugin["version"]) for plugin in json.loads(done.stdout) if "fake" in plugin["distribution"]
    ]
    assert found == [("good", "2.0")]
