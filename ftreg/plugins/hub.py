"""Base models from the Hugging Face Hub: ``hf:org/name`` and ``hf:org/name@revision``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ftreg.core.errors import InputError, MissingExtra
from ftreg.core.hookspecs import hookimpl
from ftreg.core.types import RemoteBase

# Safetensors only: weights in pickle formats can run code when they are loaded.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md"]


@hookimpl
def ftreg_resolve_base(uri: str) -> Path | None:
    """Download a model into the Hub's cache and return its folder, which is named after the commit.

    Raises:
        InputError: The URI does not name a repository, or it cannot be fetched.
        MissingExtra: huggingface_hub is not installed.
    """
    if not uri.startswith("hf:"):
        return None
    return Path(_snapshot(uri, allow_patterns=_FILES))


@hookimpl
def ftreg_find_base(uri: str) -> RemoteBase | None:
    """Find a model in the Hub's cache, else ask the Hub for the size of its files; raises as fetching it does."""
    if not uri.startswith("hf:"):
        return None
    with suppress(InputError):  # it is not in the cache
        folder = Path(_snapshot(uri, local_files_only=True))
        if any(folder.glob("*.safetensors")):  # the cache may hold only a part of the model
            return RemoteBase(folder)
    files = _snapshot(uri, allow_patterns=_FILES, dry_run=True)
    return RemoteBase(size=sum(file.file_size or 0 for file in files if file.will_download))


def _snapshot(uri: str, **options: Any) -> Any:
    """Call the Hub's ``snapshot_download`` for the model ``uri``; raise as ``ftreg_resolve_base`` does."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra(f"base {uri}", "huggingface_hub", "ftreg[train]") from None
    repository, _, revision = uri.removeprefix("hf:").partition("@")
    with _hub_errors(uri):
        return snapshot_download(repository, revision=revision or None, **options)


@contextmanager
def _hub_errors(uri: str) -> Iterator[None]:
    """Raise ``InputError`` for the Hub's errors about the model ``uri``."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        hint = "Write hf:org/name[@revision]."
        raise InputError(f"{uri!r} does not name a repository", where="base", hint=hint) from error
    except errors.DryRunError as error:
        raise _not_fetched(uri, error.__cause__ or error) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise _not_fetched(uri, error) from error


def _not_fetched(uri: str, error: BaseException) -> InputError:
    """The error that says why ``uri`` could not be fetched, in the place of the Hub's own explanation."""
    from huggingface_hub import constants, errors

    hint = "Check the name."
    if isinstance(error, errors.GatedRepoError):
        reason, hint = "access has to be granted first", "Ask for access on its page, then set HF_TOKEN."
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason, hint = "there is no such repository, or it is private", "Check the name, or set HF_TOKEN."
    elif isinstance(error, errors.RevisionNotFoundError):
        reason, hint = "it has no such revision", "Check what stands after the @."
    elif isinstance(error, errors.HfHubHTTPError):
        reason, hint = f"the server answered with status {error.response.status_code}", "Try again later."
    elif constants.HF_HUB_OFFLINE:
        reason, hint = "HF_HUB_OFFLINE is set", "Unset it, or give a folder that holds the model."
    else:
        reason, hint = "there is no connection", "Check the network, or give a folder that holds the model."
    return InputError(f"{uri} could not be fetched from {constants.ENDPOINT}: {reason}", where="base", hint=hint)
