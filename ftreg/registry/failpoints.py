"""Failpoints: named places in a commit and in ``gc`` at which a test can kill the process.

If ``FTREG_FAILPOINT`` is one of these names, the process kills itself there with SIGKILL: no handler runs and no buffer
is flushed. Without the variable, a failpoint costs one look-up in the environment.
"""

from __future__ import annotations

import os
import signal

COMMIT = (
    "staged",  # the files are hashed and synced in staging
    "blob-sealed",  # the first file is read-only, still in staging
    "blob-stored",  # the first file is in blobs/
    "blobs-stored",  # all files are in blobs/
    "manifest-written",  # the manifest is synced in staging
    "manifest-stored",  # the manifest is in manifests/
    "transaction-open",  # nothing is written to the catalog yet
    "transaction-full",  # everything is written, but not committed
    "committed",  # the catalog has the version, the journal does not
    "mirrored",  # the journal has it too
)
COLLECT = (
    "collect-recorded",  # the rows of the garbage are gone from the catalog
    "collect-manifests",  # its manifests are removed, its blobs are not
    "collect-blob",  # one blob is removed
)
EVICT = (
    "evict-recorded",  # the version is rebuildable, its blobs are here
    "evict-blob",  # one blob is removed
    "evict-blobs",  # all are, its view is not
)
RESTORE = (
    "blobs-stored",  # all files are in blobs/, the version is still rebuildable
    "transaction-full",  # everything is written, but not committed
    "committed",  # the catalog says that the files are here, the journal does not
)


def failpoint(name: str) -> None:
    """Kill this process if ``FTREG_FAILPOINT`` is ``name``."""
    if os.environ.get("FTREG_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
