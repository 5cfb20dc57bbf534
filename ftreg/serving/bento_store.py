"""BentoML's stores on disk, including what BentoML's public API does not cover.

ftreg relies on these properties of BentoML, which tests/serving/test_bento_store.py checks by name:

- Models are kept in ``$BENTOML_HOME/models/NAME/VERSION``, Bentos in ``$BENTOML_HOME/bentos/NAME/VERSION``.
- The version that ``NAME:latest`` means is the content of the file ``latest`` beside the versions.
- A Bento has its files below ``src``, and what a container is built from below ``env``.
- Building a Bento imports the service's module by its bare name from ``sys.modules`` or the build folder, and changes
  the working directory if it fails.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftreg.core.errors import CorruptRegistry, MissingExtra
from ftreg.core.faults import disk_full
from ftreg.core.types import Source
from ftreg.serving import weights
from ftreg.serving.deployment import bentoml_home, model_tag

SERVICE_MODULE = "service"
"""Module of a build folder that defines the BentoML service, in a variable of the same name."""

_CONTAINER_FILES = ("docker/Dockerfile", "python/requirements.txt")


class BentoStore:
    """BentoML's model store and Bento store, which repair what a killed process left behind.

    Raises:
        MissingExtra: BentoML is not installed.
    """

    def __init__(self) -> None:
        self._bentoml = import_bentoml()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude other writers during the body, since a model or Bento that is half written would look damaged.

        Raises:
            DiskFull: No room is left.
        """
        home = bentoml_home() / "ftreg"
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock, _disk_errors():
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add_model(self, source: Source) -> tuple[Path, bool]:
        """Copy a version into the model store unless it is there already.

        BentoML takes a model that a killed process left half written for a complete one, so a model that is found is
        hashed, and written again if it is not what its digest says.

        Returns:
            Its folder in the store, and whether it was written.
        """
        tag = model_tag(source.digest)
        try:
            path = self._model_path(tag)
            weights.check(path, source.digest)
        except CorruptRegistry:
            self._bentoml.models.delete(tag)
        except self._bentoml.exceptions.NotFound:
            pass
        except Exception:  # an empty or truncated model.yaml can fail in any way
            _remove("models", tag)
        else:
            return path, False
        try:
            # The new model holds links; at the end of the block, BentoML copies what they point to into the store.
            with self._bentoml.models.create(tag, labels={"ref": source.ref.replace(":", "-")}) as model:
                weights.link(source, Path(model.path))
        except BaseException:
            _remove("models", tag)
            raise
        path = self._model_path(tag)
        weights.check(path, source.digest)
        return path, True

    def add_bento(
        self,
        folder: Path,
        name: str,
        version: str,
        *,
        models: Sequence[str],
        labels: Mapping[str, str],
        description: str,
    ) -> Path:
        """Build the Bento ``name:version`` from ``folder`` unless it is there already; make it the latest.

        Args:
            folder: The build folder, with the service in ``service.py``.
            name: The Bento's name.
            version: The Bento's version.
            models: Digests of the versions that it needs, which must be in the model store.
            labels: Labels of the Bento.
            description: The Bento's README, in Markdown.

        Returns:
            Its folder in the store.
        """
        path = self._find_bento(f"{name}:{version}", folder)
        if path is None:
            with _private_module(), contextlib.chdir("."):  # BentoML may fail in another working directory
                bento = self._bentoml.bentos.build(
                    f"{SERVICE_MODULE}:{SERVICE_MODULE}",
                    name=name,
                    version=version,
                    build_ctx=str(folder),
                    include=["*"],
                    models=[model_tag(digest) for digest in models],
                    labels=dict(labels),
                    description=description,
                )
            path = Path(bento.path)
        (path.parent / "latest").write_text(path.name)  # also if it was built before others
        return path

    def _model_path(self, tag: str) -> Path:
        return Path(self._bentoml.models.get(tag).path)

    def _find_bento(self, tag: str, folder: Path) -> Path | None:
        """Return the folder of the Bento ``tag`` if it is complete and holds what ``folder`` does, else None.

        BentoML takes a Bento for complete as soon as its bento.yaml exists; one that is not is removed.
        """
        try:
            path = Path(self._bentoml.bentos.get(tag).path)
        except self._bentoml.exceptions.NotFound:
            return None
        except Exception:  # an empty or truncated bento.yaml can fail in any way
            path = None
        if path is not None and _is_complete(path, folder):
            return path
        _remove("bentos", tag)
        return None


def import_bentoml() -> Any:
    """Import BentoML, with its usage reports switched off; raise ``MissingExtra`` if it is not installed."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    try:
        import bentoml
        import bentoml.bentos
        import bentoml.models
    except ImportError:
        raise MissingExtra("deploying", "bentoml", "ftreg[serve]") from None
    return bentoml


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn a full disk into an error that says so; ``shutil.copytree`` reports it as a list of all failures."""
    try:
        yield
    except OSError as error:
        in_copy = isinstance(error, shutil.Error) and os.strerror(errno.ENOSPC) in str(error)
        if in_copy or error.errno == errno.ENOSPC:
            raise disk_full(str(bentoml_home())) from error
        raise


@contextlib.contextmanager
def _private_module() -> Iterator[None]:
    """Hide any module with the service's name during the body, since BentoML would import that one instead."""
    before = sys.modules.pop(SERVICE_MODULE, None)
    try:
        yield
    finally:
        sys.modules.pop(SERVICE_MODULE, None)
        if before is not None:
            sys.modules[SERVICE_MODULE] = before


def _remove(store: str, tag: str) -> None:
    """Remove what an interrupted save left in a store, which BentoML itself may not find."""
    shutil.rmtree(bentoml_home() / store / tag.replace(":", "/"), ignore_errors=True)


def _is_complete(bento: Path, folder: Path) -> bool:
    """Return True if a Bento has all files of ``folder``, unchanged, and what a container is built from."""
    files = [
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    try:
        same = all((bento / "src" / file).read_bytes() == (folder / file).read_bytes() for file in files)
    except OSError:
        return False
    return same and all((bento / "env" / file).is_file() for file in _CONTAINER_FILES)
