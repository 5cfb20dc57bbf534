"""Gates and observers of third-party plugins, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftreg.core.manifest import Producer
from ftreg.registry import Draft, Registry
from tests.command import ftreg
from tests.plugins.fakes import distribution, environment

GATE = "@hookimpl\ndef ftreg_check_promotion(alias):\n    {0}"
OBSERVER = "@hookimpl\ndef ftreg_alias_moved(new):\n    {0}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A registry with the version bot:1."""
    producer = Producer("import", "test", "test", "test", "1")
    with Registry(tmp_path / "home") as registry, registry.staging() as staging:
        (staging.files / "config.json").write_text("{}")
        registry.publish("bot", Draft(folder=staging.files, kind="checkpoint", producer=producer))
        return registry.home


def _aliases(home: Path) -> list[str]:
    return json.loads(ftreg("models", "show", "bot", "--json", home=home).stdout)["aliases"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [Problem(f'{alias} is frozen', hint='wait')] if alias == 'champion' else []", "champion is frozen"),
        ("raise ValueError('no answer')", "gate of plugin strict failed: ValueError: no answer"),
        ("raise SystemExit(0)", "gate of plugin strict failed: SystemExit: 0"),
        ("return True", "gate of plugin strict failed: ftreg_check_promotion returned what is not a list of Problem"),
    ],
)
def test_a_gate_blocks(body: str, said: str, home: Path, tmp_path: Path) -> None:
    """A gate's problem, and a gate that breaks, both block: exit 1, the reason is told, and nothing has moved."""
    distribution(tmp_path, "fake-strict", {"strict": GATE.format(body)})
    failed = ftreg("models", "alias", "bot:1", "champion", home=home, env=environment(tmp_path), code=1)
    assert said in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr
    assert _aliases(home) == []
    ftreg("--no-plugin", "strict", "models", "alias", "bot:1", "champion", home=home, env=environment(tmp_path))
    assert _aliases(home) == ["champion"]


def test_an_observer_cannot_stop_anything(home: Path, tmp_path: Path) -> None:
    """The alias moves, the other observer is told, and the failure is one line on standard error."""
    broken = OBSERVER.format("raise ValueError('offline')")
    told = OBSERVER.format("print('told of', new)")
    distribution(tmp_path, "fake-observers", {"broken": broken, "told": told})
    done = ftreg("models", "alias", "bot:1", "champion", home=home, env=environment(tmp_path))
    assert "plugin broken: ftreg_alias_moved failed and was ignored: ValueError: offline" in done.stderr
    assert "told of b3:" in done.stderr
    assert "Traceback" not in done.stderr
    assert _aliases(home) == ["champion"]
