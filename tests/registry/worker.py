"""What the tests run in processes of their own: ``python -m tests.registry.worker HOME WORK [ARGUMENT...]``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ftreg.core.errors import RegistryBusy
from ftreg.registry import Registry
from tests.registry.kit import FILES, publish

GO = "go"


def wait_for_go(home: Path) -> None:
    """Wait until the test lets all its processes start at once."""
    (home.parent / f"ready-{os.getpid()}").touch()
    while not (home.parent / GO).exists():
        time.sleep(0.002)


def commit(home: Path) -> None:
    """Publish one version with a report, evidence, a tag and a parent that is there already."""
    with Registry(home) as registry:
        publish(
            registry,
            "bot",
            FILES,
            parents=[registry.get("base")],
            report={"loss.png": b"picture"},
            evidence=[("run", {"loss": 1.5})],
            tags={"stage": "test"},
        )


def collect(home: Path) -> None:
    """Collect without grace."""
    with Registry(home) as registry:
        registry.gc(grace=0)


def abandon(home: Path) -> None:
    """Be killed with something in staging."""
    with Registry(home) as registry, registry.staging() as staging:
        (staging.files / "half.bin").write_bytes(b"half")
        os.kill(os.getpid(), 9)


def register(home: Path, worker: str, count: str) -> None:
    """Publish ``count`` versions of one name, after a common start; a fresh home is set up by all at once."""
    wait_for_go(home)
    with Registry(home) as registry:
        for index in range(int(count)):
            publish(registry, "bot", {"a.bin": f"{worker}-{index}".encode(), "same.bin": b"same"})


def churn(home: Path, worker: str, count: str) -> None:
    """Publish, delete and publish again what other workers publish too."""
    wait_for_go(home)
    with Registry(home) as registry:
        for index in range(int(count)):
            version = publish(registry, f"bot-{worker}", {"shared.bin": f"{index % 3}".encode()})
            if index % 2:
                registry.delete(version.ref)


def collect_often(home: Path, count: str) -> None:
    """Collect again and again without grace."""
    wait_for_go(home)
    with Registry(home) as registry:
        for _ in range(int(count)):
            try:
                registry.gc(grace=0, timeout=0.2)
            except RegistryBusy:
                time.sleep(0.01)


if __name__ == "__main__":
    globals()[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
