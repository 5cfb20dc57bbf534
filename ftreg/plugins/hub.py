"""Base models from the Hugging Face Hub: ``hf:org/name`` and ``hf:org/name@revision``."""

from __future__ import annotations

from pathlib import Path

from ftreg.core.errors import InputError, MissingExtra
from ftreg.core.hookspecs import hookimpl

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
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise MissingExtra(f"base {uri}", "huggingface_hub", "ftreg[train]") from None
    repository, _, revision = uri.removeprefix("hf:").partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except errors.HFValidationError as error:
        hint = "Write hf:org/name[@revision]."
        raise InputError(f"{uri!r} does not name a repository", where="base", hint=hint) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise _not_fetched(uri, error) from error


def _not_fetched(uri: str, error: Exception) -> InputError:
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
