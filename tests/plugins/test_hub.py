"""Bases from the Hugging Face Hub: why one could not be fetched, in one clause, and what to do."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from ftreg.core.errors import InputError
from ftreg.core.types import RemoteBase
from ftreg.plugins.hub import ftreg_find_base, ftreg_resolve_base
from tests.command import ftreg

File = namedtuple("File", "file_size will_download")


class Response:
    """As much of an HTTP answer as the Hub's errors look at."""

    status_code = 500
    headers: dict[str, str] = {}  # noqa: RUF012
    request = None


NO_CACHE = errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder for the revision")


def http(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    """One of the Hub's errors about an answer."""
    return kind("https://huggingface.co/x: 500 Server Error", response=Response())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "offline", "reason", "remedy"),
    [
        (NO_CACHE, False, "there is no connection", "Check the network"),
        (ConnectionError("[Errno -2] Name or service not known"), False, "there is no connection", "Check the network"),
        (NO_CACHE, True, "HF_HUB_OFFLINE is set", "Unset it, or give a folder"),
        (http(errors.RepositoryNotFoundError), False, "there is no such repository", "HF_TOKEN"),
        (http(errors.GatedRepoError), False, "access has to be granted", "HF_TOKEN"),
        (http(errors.RevisionNotFoundError), False, "no such revision", "@"),
        (http(errors.HfHubHTTPError), False, "status 500", "Try again later"),
    ],
)
def test_a_base_that_cannot_be_fetched(
    monkeypatch: pytest.MonkeyPatch, error: Exception, offline: bool, reason: str, remedy: str
) -> None:
    """The message says what, from where and why; the Hub's own sentences are kept as the cause, for --debug."""

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(InputError) as caught:
        ftreg_resolve_base("hf:org/name@main")
    assert caught.value.message.startswith("hf:org/name@main could not be fetched from https://huggingface.co: ")
    assert reason in caught.value.message
    assert remedy in str(caught.value.hint)
    assert str(error) not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_name_that_is_no_repository_and_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A URI that names no repository is refused with the way to write it; a download is returned as a folder."""
    with pytest.raises(InputError, match=r"does not name a repository\n  Write hf:org/name"):
        ftreg_resolve_base("hf:a/b/c")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert ftreg_resolve_base("hf:org/name") == tmp_path
    assert ftreg_resolve_base("s3:bucket/name") is None


@pytest.fixture
def cache(tmp_path: Path, model_folder: Callable[..., Path]) -> Path:
    """Lay out a cache of the Hub that holds the model org/tiny; return its HF_HOME."""
    repository = tmp_path / "hf" / "hub" / "models--org--tiny"
    shutil.copytree(model_folder(), repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return tmp_path / "hf"


def test_a_dry_run_checks_a_model_of_the_cache_and_one_that_is_out_of_reach(cache: Path, tmp_path: Path) -> None:
    """A dry run uses what was fetched before, and refuses a model that could not be fetched, as the run would."""
    data, home, env = tmp_path / "data.jsonl", tmp_path / "home", {"HF_HOME": str(cache)}
    data.write_text('{"prompt": "Hello?", "response": "Hi."}\n' * 3)
    train = ("train", "--data", data, "--dry-run")
    shown = ftreg(*train, "--base", "hf:org/tiny", "--json", home=home, env=env).stdout
    assert json.loads(shown)["base"] == "hf:org/tiny (fetched)"
    failed = ftreg(*train, "--base", "hf:org/other", home=home, env=env, code=2)
    assert "hf:org/other could not be fetched from https://huggingface.co: HF_HUB_OFFLINE is set" in failed.stderr


def test_the_size_of_a_model_that_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that is not in the cache, the Hub is asked for the bytes that fetching it would bring."""

    def snapshot_download(_: str, *, local_files_only: bool = False, **options: Any) -> list[File]:
        if local_files_only:
            raise NO_CACHE
        assert options["dry_run"]
        return [File(700, True), File(300, False), File(None, True)]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert ftreg_find_base("hf:org/name@main") == RemoteBase(size=700)
    assert ftreg_find_base("s3:bucket/name") is None


def test_the_reason_of_a_dry_run_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error behind a failed look at the Hub is what the message speaks of."""

    def snapshot_download(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        if local_files_only:
            raise NO_CACHE
        raise errors.DryRunError("Dry run cannot be performed") from http(errors.RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match="there is no such repository, or it is private"):
        ftreg_find_base("hf:org/name")
