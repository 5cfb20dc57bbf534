"""The home: where the registry lies, how its folder is laid out, and the lock that writers and ``gc`` share.

::

    FORMAT           "ftreg-registry 1"
    lock             writers hold it shared, gc and rebuild exclusively
    registry.db      the catalog (SQLite)
    events.jsonl     a copy of the event log, from which the catalog can be rebuilt
    blobs/b3/ab/     files by their BLAKE3, read-only
    manifests/       manifests by their BLAKE3, read-only
    tmp/             staging folders, one a live writer
    views/           folders that libraries can load, made of links to blobs
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftreg.core.errors import CorruptRegistry, FtregError, InputError, RegistryBusy

FORMAT = "ftreg-registry 1\n"
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PARTS = frozenset(
    {"FORMAT", "lock", "registry.db", "registry.db-wal", "registry.db-shm", "registry.db-journal", "events.jsonl"}
    | {"blobs", "manifests", "tmp", "views"}
)
_POLL_SECONDS = 0.02


def find_home(home: Path | str | None) -> Path:
    """The registry's folder: ``home``, ``$FTREG_HOME``, the nearest ``.ftreg``, or one in the user's data folder."""
    chosen = home or os.environ.get("FTREG_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".ftreg").is_dir():
            return folder / ".ftreg"
    from platformdirs import user_data_path

    return user_data_path("ftreg", appauthor=False)


@dataclass(frozen=True)
class Home:
    """The layout of the registry's folder."""

    path: Path

    @property
    def database(self) -> Path:
        """The catalog."""
        return self.path / "registry.db"

    @property
    def events(self) -> Path:
        """The copy of the event log."""
        return self.path / "events.jsonl"

    @property
    def blobs(self) -> Path:
        """Where the blobs' folders are."""
        return self.path / "blobs" / "b3"

    @property
    def manifests(self) -> Path:
        """Where the manifests are."""
        return self.path / "manifests"

    @property
    def tmp(self) -> Path:
        """Where the staging folders are."""
        return self.path / "tmp"

    @property
    def views(self) -> Path:
        """Where the views are."""
        return self.path / "views"

    def blob(self, blake3: str) -> Path:
        """Where the file with this hash is stored; raise ``CorruptRegistry`` for what is no hash."""
        return self.blobs / check_hash(blake3)[:2] / blake3

    def manifest(self, digest: str) -> Path:
        """Where the manifest with this digest (``b3:…``) is stored; raise ``CorruptRegistry`` for what is no digest."""
        return self.manifests / f"{check_hash(digest.removeprefix('b3:'))}.json"

    def owns(self, folder: Path) -> bool:
        """Whether ``folder`` is in a staging folder of this home."""
        return folder.resolve().is_relative_to(self.tmp.resolve())

    @contextmanager
    def lock(self, *, exclusive: bool = False, timeout: float = 60.0) -> Iterator[None]:
        """Hold the home's lock, shared as a writer or exclusively.

        Raises:
            RegistryBusy: It was not to be had within ``timeout`` seconds.
        """
        file = os.open(self.path / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + timeout
            while not try_lock(file, exclusive=exclusive):
                if time.monotonic() > deadline:
                    holder = "writing to the registry" if exclusive else "running gc or rebuilding the catalog"
                    raise RegistryBusy(
                        f"another process is {holder}", where=str(self.path), hint="Try again when it is done."
                    )
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(file)

    def is_ready(self) -> bool:
        """Whether the home was set up.

        Raises:
            InputError: The path is a file, or a folder that holds other things.
            FtregError: The home was made by a newer ftreg.
        """
        try:
            found = (self.path / "FORMAT").read_text(encoding="utf-8")
        except FileNotFoundError:
            self._refuse_foreign()
            return False
        except NotADirectoryError:
            raise InputError("is a file, not a registry", where=str(self.path), hint="Name a folder.") from None
        if found != FORMAT:
            raise FtregError(
                f"the registry's format is {found.strip()!r}; this ftreg reads {FORMAT.strip()!r}",
                where=str(self.path),
                hint="Upgrade ftreg.",
            )
        return True

    def _refuse_foreign(self) -> None:
        """Raise for a folder that holds anything but a home that is being set up: it is someone else's."""
        others = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        others = [name for name in others if name not in _PARTS and not name.startswith("FORMAT.")]
        if others:
            raise InputError(
                f"is no registry, and not empty (it holds {others[0]!r})",
                where=str(self.path),
                hint="Name a new or empty folder.",
            )

    def make_folders(self) -> None:
        """Create the folders that are missing."""
        for folder in (self.blobs, self.manifests, self.views):
            folder.mkdir(parents=True, exist_ok=True)
        self.tmp.mkdir(mode=0o700, exist_ok=True)

    def mark_ready(self) -> None:
        """Write FORMAT, which says that everything else is in place."""
        draft = self.path / f"FORMAT.{os.getpid()}"
        with draft.open("w", encoding="utf-8") as file:
            file.write(FORMAT)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path / "FORMAT")
        sync_folder(self.path)


def check_hash(text: str) -> str:
    """Return ``text`` if it is 64 hexadecimal digits; raise ``CorruptRegistry`` otherwise, for it becomes a path."""
    if not isinstance(text, str) or not _HASH.fullmatch(text):
        raise CorruptRegistry(f"{text!r} is no BLAKE3 hash", hint="Run: ftreg verify")
    return text


def try_lock(file: int, *, exclusive: bool) -> bool:
    """Take the lock on an open file if it is free; it is held until the file is closed."""
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
