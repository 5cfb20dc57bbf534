"""The home: the registry's folder, its layout, and the lock that writers and ``gc`` share.

::

    FORMAT           "ftreg-registry 1"
    lock             writers hold it shared, gc and rebuild exclusively
    registry.db      the catalog (SQLite)
    events.jsonl     the journal: a copy of the event log, from which the catalog can be rebuilt
    blobs/b3/ab/     files by their BLAKE3, read-only
    manifests/       manifests by their BLAKE3, read-only
    tmp/             staging folders, one for each live writer
    views/           folders that libraries can load, made of clones of, or hard links to, blobs
    runs/            checkpoints of unfinished trainings, by cache key; see ``ftreg.registry.runs``
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
    | {"blobs", "manifests", "runs", "tmp", "views"}
)
_POLL_SECONDS = 0.02


def find_home(home: Path | str | None) -> Path:
    """Return the registry's folder: ``home``, ``$FTREG_HOME``, the nearest ``.ftreg``, or in the user's data folder."""
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
        """The journal."""
        return self.path / "events.jsonl"

    @property
    def blobs(self) -> Path:
        """The folder of the blobs."""
        return self.path / "blobs" / "b3"

    @property
    def manifests(self) -> Path:
        """The folder of the manifests."""
        return self.path / "manifests"

    @property
    def tmp(self) -> Path:
        """The folder of the staging folders."""
        return self.path / "tmp"

    @property
    def views(self) -> Path:
        """The folder of the views."""
        return self.path / "views"

    @property
    def runs(self) -> Path:
        """The folder of the run folders; it is created with the first of them."""
        return self.path / "runs"

    def blob(self, blake3: str) -> Path:
        """Return where the file with this hash is stored; raise ``CorruptRegistry`` if it is not a hash."""
        return self.blobs / check_hash(blake3)[:2] / blake3

    def manifest(self, digest: str) -> Path:
        """Return where the manifest ``b3:…`` is stored; raise ``CorruptRegistry`` if it is not a digest."""
        return self.manifests / f"{check_hash(digest.removeprefix('b3:'))}.json"

    def owns(self, folder: Path) -> bool:
        """Return True if ``folder`` is in a staging folder of this home."""
        return folder.resolve().is_relative_to(self.tmp.resolve())

    @contextmanager
    def lock(self, *, exclusive: bool = False, timeout: float = 60.0) -> Iterator[None]:
        """Hold the home's lock, shared as a writer or exclusively.

        Raises:
            RegistryBusy: The lock was not free within ``timeout`` seconds.
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
        """Return True if the home has been set up.

        Raises:
            InputError: The path is a file, or a folder that holds files that do not belong to a registry.
            FtregError: The home was made by a newer ftreg.
        """
        try:
            found = (self.path / "FORMAT").read_text(encoding="utf-8")
        except FileNotFoundError:
            self._refuse_foreign()
            return False
        except NotADirectoryError:
            raise InputError("this is a file, not a registry", where=str(self.path), hint="Name a folder.") from None
        if found != FORMAT:
            raise FtregError(
                f"the registry's format is {found.strip()!r}; this ftreg reads {FORMAT.strip()!r}",
                where=str(self.path),
                hint="Upgrade ftreg.",
            )
        return True

    def _refuse_foreign(self) -> None:
        """Raise ``InputError`` if the folder holds anything but parts of a home that is being set up."""
        others = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        others = [name for name in others if name not in _PARTS and not name.startswith("FORMAT.")]
        if others:
            raise InputError(
                f"the folder is not a registry and is not empty: it holds {others[0]!r}",
                where=str(self.path),
                hint="Name a new or empty folder.",
            )

    def make_folders(self) -> None:
        """Create the missing folders of the layout."""
        for folder in (self.blobs, self.manifests, self.views):
            folder.mkdir(parents=True, exist_ok=True)
        self.tmp.mkdir(mode=0o700, exist_ok=True)

    def mark_ready(self) -> None:
        """Write FORMAT, which marks the home as completely set up."""
        draft = self.path / f"FORMAT.{os.getpid()}"
        with draft.open("w", encoding="utf-8") as file:
            file.write(FORMAT)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path / "FORMAT")
        sync_folder(self.path)


def check_hash(text: str) -> str:
    """Return ``text`` if it is a BLAKE3 hash in hex; raise ``CorruptRegistry`` otherwise, since it becomes a path."""
    if not isinstance(text, str) or not _HASH.fullmatch(text):
        raise CorruptRegistry(f"{text!r} is not a BLAKE3 hash", hint="Run `registry.verify()`")
    return text


def try_lock(file: int, *, exclusive: bool) -> bool:
    """Lock an open file if its lock is free, until the file is closed; return False if the lock is taken."""
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it are durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
