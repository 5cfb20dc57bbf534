"""Workers that the tests run as processes: ``python -m tests.registry.worker HOME WORK [ARGUMENT...]``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ftreg.core.errors import RegistryBusy
from ftreg.registry import Registry
from tests.registry.kit import FILES, publish, restore


def wait_for_go() -> None:
    """Say that this process is ready, and wait until the test lets all its processes begin."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def commit(home: Path) -> None:
    """Publish one version with a report, evidence, a tag and a parent that exists already."""
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


def evict(home: Path) -> None:
    """Give up the files of ``bot``."""
    with Registry(home) as registry:
        registry.evict("bot")


def give_back(home: Path) -> None:
    """Put the files of ``bot`` back."""
    with Registry(home) as registry:
        restore(registry, "bot")


def collect(home: Path) -> None:
    """Collect garbage without a grace period."""
    with Registry(home) as registry:
        registry.gc(grace=0)


def abandon(home: Path) -> None:
    """Die with a file in staging."""
    with Registry(home) as registry, registry.staging() as staging:
        (staging.files / "half.bin").write_bytes(b"half")
        os.kill(os.getpid(), 9)


def register(home: Path, worker: str, count: str) -> None:
    """Publish ``count`` versions of one name, started together with the other workers."""
    wait_for_go()
    with Registry(home) as registry:
        for index in range(int(count)):
            publish(registry, "bot", {"a.bin": f"{worker}-{index}".encode(), "same.bin": b"same"})


def churn(home: Path, worker: str, count: str) -> None:
    """Publish, delete and publish again what other workers publish too."""
    wait_for_go()
    with Registry(home) as registry:
        for index in range(int(count)):
            version = publish(registry, f"bot-{worker}", {"shared.bin": f"{index % 3}".encode()})
            if index % 2:
                registry.delete(version.ref)


def collect_often(home: Path, count: str) -> None:
    """Collect garbage again and again, without a grace period."""
    wait_for_go()
    with Registry(home) as registry:
        for _ in range(int(count)):
            with suppress(RegistryBusy):
                registry.gc(grace=0, timeout=0.2)


if __name__ == "__main__":
    globals()[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
