"""Failpoints: named places in a commit where a test can have the process killed.

Set ``FTREG_FAILPOINT`` to a name of ``FAILPOINTS`` and the process kills itself there with SIGKILL: no handler runs and
no buffer is flushed. Without the variable a failpoint costs one look into the environment.
"""

from __future__ import annotations

import os
import signal

COMMIT = (
    "staged",  # the files are hashed and durable in staging
    "blob-sealed",  # the first file is read-only, still in staging
    "blob-stored",  # the first file is in blobs/
    "blobs-stored",  # all files are
    "manifest-written",  # the manifest is durable in staging
    "manifest-stored",  # the manifest is in manifests/
    "transaction-open",  # nothing is in the catalog yet
    "transaction-full",  # everything is, uncommitted
    "committed",  # the catalog has the version, the event log has not
    "mirrored",  # the event log has it too
)
COLLECT = (
    "collect-recorded",  # the catalog has forgotten what is to go
    "collect-manifests",  # its manifests are gone, its blobs are not
    "collect-blob",  # one blob is gone
)
FAILPOINTS = COMMIT + COLLECT


def failpoint(name: str) -> None:
    """Kill this process here if ``FTREG_FAILPOINT`` asks for it."""
    if os.environ.get("FTREG_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
