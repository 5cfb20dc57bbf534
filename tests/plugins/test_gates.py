"""Gates and observers of third-party plugins: on the command line, from Python, and when they are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ftreg.api import training
from ftreg.core.errors import FtregError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Producer
from ftreg.core.types import Problem
from ftreg.registry import Draft, Gate, Registry
from tests.command import ftreg
from tests.plugins.fakes import distribution, environment

GATE = "@hookimpl\ndef ftreg_check_promotion(alias):\n    {0}"
OBSERVER = "@hookimpl\ndef ftreg_alias_moved(new):\n    {0}"
REFUSE = "return [Problem('not yet')]"


def _publish(registry: Registry, text: str = "{}") -> None:
    producer = Producer("import", "test", "test", "test", "1")
    with registry.staging() as staging:
        (staging.files / "config.json").write_text(text)
        registry.publish("bot", Draft(folder=staging.files, kind="checkpoint", producer=producer))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Create a registry with the version bot:1."""
    with Registry(tmp_path / "home") as registry:
        _publish(registry)
        return registry.home


def _aliases(home: Path) -> list[str]:
    return json.loads(ftreg("models", "show", "bot", "--json", home=home).stdout)["aliases"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [Problem(f'{alias} is frozen', hint='wait')] if alias == 'champion' else []", "champion is frozen"),
        ("raise ValueError('no answer')", "the gate of plugin strict (fake-strict 1.0) failed: ValueError: no answer"),
        ("raise SystemExit(0)", "the gate of plugin strict (fake-strict 1.0) failed: SystemExit: 0"),
        (
            "return True",
            "the gate of plugin strict (fake-strict 1.0) failed: ftreg_check_promotion returned bool, not a list",
        ),
    ],
)
def test_a_gate_blocks(body: str, said: str, home: Path, tmp_path: Path) -> None:
    """A gate that refuses, and a gate that breaks, both block: the reason is printed and nothing is changed."""
    distribution(tmp_path, "fake-strict", {"strict": GATE.format(body)})
    failed = ftreg("models", "alias", "bot:1", "champion", home=home, env=environment(tmp_path), code=1)
    assert said in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr
    assert _aliases(home) == []


def test_an_observer_cannot_stop_anything(home: Path, tmp_path: Path) -> None:
    """If an observer raises, the alias still moves, the other observer is called, and one line reports the failure."""
    broken = OBSERVER.format("raise ValueError('offline')")
    told = OBSERVER.format("print('told of', new)")
    distribution(tmp_path, "fake-observers", {"broken": broken, "told": told})
    done = ftreg("models", "alias", "bot:1", "champion", home=home, env=environment(tmp_path))
    assert "plugin broken: ftreg_alias_moved failed and was ignored: ValueError: offline" in done.stderr
    assert "told of b3:" in done.stderr
    assert "Traceback" not in done.stderr
    assert _aliases(home) == ["champion"]


def test_python_asks_the_same_gates(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A registry that is opened from Python calls the installed gates and observers."""
    source = f"{GATE.format(REFUSE)}\n{OBSERVER.format('print(new)')}\n"
    source += "@hookimpl\ndef ftreg_check_version(version):\n    return [Problem('nothing new, please')]"
    monkeypatch.syspath_prepend(str(distribution(tmp_path / "site", "fake-strict", {"strict_gate": source})))
    with Registry(home) as registry:
        with pytest.raises(FtregError, match="not yet"):
            registry.set_alias("bot:1", "champion")
        with pytest.raises(FtregError, match="nothing new, please"):
            _publish(registry, "{} ")
        data = tmp_path / "data.jsonl"
        data.write_text(
            "".join(json.dumps({"text": f"{number * 37} and {number * 91}"}) + "\n" for number in range(99))
        )
        with pytest.raises(FtregError, match="nothing new, please"):
            training.init("base", data, registry=registry, vocab_size=288)
        assert registry.count() == 1
        assert registry.get("bot").aliases == ()


@pytest.mark.parametrize("how", ["uninstalled", "broken", "left out", "without the hook"])
def test_a_gate_that_is_gone_blocks(how: str, home: Path, tmp_path: Path) -> None:
    """A gate on record that is not loaded blocks, and the error says which, why, and what to do."""
    site = tmp_path / "site"
    distribution(site, "fake-strict", {"strict": GATE.format("return []")})
    ftreg("models", "alias", "bot:1", "first", home=home, env=environment(site))

    options: tuple[str, ...] = ()
    if how == "uninstalled":
        shutil.rmtree(site)
        reason = "it is not installed"
    elif how == "broken":
        (site / "strict.py").write_text("import no_such_package")
        reason = "import failed: ModuleNotFoundError"
    elif how == "left out":
        options = ("--no-plugin", "strict")
        reason = "it is disabled on request"
    else:
        (site / "strict.py").write_text("from ftreg.plugin import *\n" + OBSERVER.format("pass"))
        reason = "version 1.0 does not implement ftreg_check_promotion"
    failed = ftreg(*options, "models", "alias", "bot:1", "champion", home=home, env=environment(site), code=1)
    said = " ".join(failed.stderr.split())
    assert f"plugin strict (fake-strict) guards this registry and is not loaded: {reason}" in said
    assert "ftreg plugins release strict" in said
    assert _aliases(home) == ["first"]

    ftreg("plugins", "release", "strict", home=home)
    ftreg(*options, "models", "alias", "bot:1", "champion", home=home, env=environment(site))
    assert sorted(_aliases(home)) == ["champion", "first"]
    log = ftreg("models", "log", home=home).stdout
    assert "is guarded by plugin strict (fake-strict): ftreg_check_promotion" in log
    assert "is no longer guarded by plugin strict" in log


class _Strict:
    """A plugin with every gate, registered in this process."""

    @hookimpl
    def ftreg_check_version(self) -> list[Problem]:
        return []

    @hookimpl
    def ftreg_check_deployment(self, version: object, deployment: str) -> list[Problem]:
        return [Problem(f"{version.ref} is not for {deployment}")]


def test_the_record_of_gates_outlives_the_catalog(tmp_path: Path) -> None:
    """A rebuilt catalog still has its gates on record, and publication is refused without them."""
    host = PluginHost(only=())
    host.register(_Strict())
    with Registry(tmp_path / "home", host=host) as registry:
        _publish(registry)
        (tmp_path / "home" / "registry.db").unlink()
    Registry.rebuild(tmp_path / "home")
    with Registry(tmp_path / "home", host=PluginHost(only=())) as registry:
        assert registry.gates() == [Gate("_Strict", "this process", "ftreg_check_version")]
        with pytest.raises(FtregError, match="plugin _Strict"):
            _publish(registry, "{} ")
        with pytest.raises(FtregError, match="plugin _Strict"):
            registry.check_gates("ftreg_check_version")
        registry.set_alias("bot:1", "champion")  # another hook: this gate never guarded aliases
        with pytest.raises(UnknownName, match="no gate named 'other'"):
            registry.release_gate("other")
        registry.release_gate("_Strict")
        _publish(registry, "{} ")
        assert registry.verify().ok


def test_a_gate_keeps_a_version_from_being_deployed(tmp_path: Path) -> None:
    """Deployment has a gate of its own, which is recorded like any other."""
    host = PluginHost(only=())
    host.register(_Strict())
    with Registry(tmp_path / "home", host=host) as registry:
        _publish(registry)
        with pytest.raises(FtregError, match="bot:1 cannot be deployed: bot:1 is not for shop"):
            registry.check_deployment("bot:1", "shop")
    with (
        Registry(tmp_path / "home", host=PluginHost(only=())) as registry,
        pytest.raises(FtregError, match="plugin _Strict"),
    ):
        registry.check_deployment("bot:1", "shop")


def test_a_plugin_that_failed_to_load_is_mentioned_when_gates_are_asked(home: Path, tmp_path: Path) -> None:
    """If a plugin failed to load, publishing and promoting warn that it may be a gate."""
    distribution(tmp_path, "fake-strict", {"strict": "import no_such_package"})
    done = ftreg("models", "alias", "bot:1", "champion", home=home, env=environment(tmp_path))
    assert "plugin strict (fake-strict 1.0) failed to load; if it is a gate, it is not asked" in done.stderr
