"""Bases from the Hugging Face Hub: why one could not be fetched, in one clause, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from ftreg.core.errors import InputError
from ftreg.plugins.hub import ftreg_resolve_base


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
