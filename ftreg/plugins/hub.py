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
        InputError: The URI does not name a repository, or it cannot be downloaded.
        MissingExtra: huggingface_hub is not installed.
    """
    if not uri.startswith("hf:"):
        return None
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise MissingExtra(f"base {uri}", "huggingface_hub", "ftreg[train]") from None
    repository, _, revision = uri.removeprefix("hf:").partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except HFValidationError:
        raise InputError(
            f"{uri!r} does not name a repository", where="base", hint="Write hf:org/name[@revision]."
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"the Hub has no repository {repository!r}, or it is private", where="base") from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{uri} cannot be downloaded, and is not in the Hub's cache: {str(error).splitlines()[0]}",
            where="base",
            hint="Check the network, or give a local folder.",
        ) from None
