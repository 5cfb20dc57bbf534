"""Suites: what is refused before lm-eval is needed; `make test-extras` runs the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg import run_suite
from ftreg.api.settings import settings
from ftreg.cli.main import main
from ftreg.compat.lm_eval import LM_EVAL
from ftreg.core.errors import InputError, MissingExtra, UnknownName
from ftreg.core.host import PluginHost
from ftreg.registry import Registry
from tests.registry.kit import publish


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Open a registry with bot:1, where lm-eval is not installed."""
    known = type(LM_EVAL).is_installed
    monkeypatch.setattr(
        type(LM_EVAL), "is_installed", property(lambda self: self.distribution != "lm-eval" and known.fget(self))
    )
    registry = Registry(tmp_path / "home", host=PluginHost())
    publish(registry)
    return registry


def test_missing_package_is_named(registry: Registry) -> None:
    """Without lm-eval the error names the extra."""
    with pytest.raises(MissingExtra, match=r"suite lm-eval needs lm-eval.*\n.*'ftreg\[bench\]'"):
        run_suite("bot:1", "lm-eval:hellaswag", registry=registry)


def test_names_that_are_not_suites(registry: Registry) -> None:
    """Another suite is unknown, with the nearest name, and a suite without a task is refused."""
    with pytest.raises(UnknownName, match=r"no suite named 'lmeval'\n.*lm-eval"):
        run_suite("bot:1", "lmeval:hellaswag", registry=registry)
    for suite in ("lm-eval", "lm-eval:", "lm-eval: ,"):
        with pytest.raises(InputError, match=r"names no task\n.*lm-eval:hellaswag"):
            run_suite("bot:1", suite, registry=registry)


def test_settings_are_listed() -> None:
    """What can be set is listed under the keys that ``--set`` takes."""
    keys = [setting.key for setting in settings("lm-eval", PluginHost())]
    assert {"lm-eval.num_fewshot", "lm-eval.apply_chat_template", "lm-eval.seed"} <= set(keys)


@pytest.fixture
def refused(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``ftreg eval``, which must refuse; return what it says."""

    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(registry.home), "eval", *arguments])
        assert ended.value.code == 2
        return capsys.readouterr().err

    return command


def test_options_that_do_not_go_with_suites(refused: Callable[..., str]) -> None:
    """An option that would be ignored is refused, and so are tasks without a suite."""
    said = refused("bot:1", "--suite", "lm-eval:hellaswag", "--metric", "rouge")
    assert "metrics says nothing about suites" in said
    assert "tasks without a suite" in refused("bot:1", "--tasks", ".")
    assert "suite says nothing about golden prompts" in refused("bot:1", "--golden", "--suite", "lm-eval:hellaswag")
    assert "ftreg[bench]" in refused("bot:1", "--suite", "lm-eval:hellaswag", "--limit", "3")
