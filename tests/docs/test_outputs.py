"""The outputs on the pages are those of the commands."""

from __future__ import annotations

import errno
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ftreg.cli.wording import in_commands
from ftreg.core.errors import FtregError, MissingExtra
from ftreg.core.faults import disk_full, fault_of
from ftreg.core.host import PluginHost
from ftreg.registry import Registry
from tests.docs.pages import DOCS
from tests.plugins.fakes import distribution
from tests.registry.kit import publish

TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    """Import a script of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_outputs_are_those_of_the_commands() -> None:
    """Each command of the pages prints what they show, but for numbers and digests."""
    done = subprocess.run([sys.executable, DOCS / "console.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_masks_leave_what_matters() -> None:
    """Numbers, digests and widths of columns are masked; words and what commands say of them are not."""
    masked = script("console").masked
    assert masked("bot:1  b3:12ab  1.5 kB") == masked("bot:2 b3:ffff 31.25 kB")
    assert masked("bot:1 is fine") != masked("bot:1 is damaged")


def message(name: str) -> str:
    """Return the message that docs/troubleshooting.md shows under a name."""
    found = re.search(rf"<!-- message: {name} -->\n```\nerror: (.*?)\n```", TROUBLESHOOTING, re.DOTALL)
    assert found is not None
    return found[1]


def test_messages_that_cannot_be_provoked_on_the_page(tmp_path: Path) -> None:
    """A full disk, no memory, and a package that is not installed have the messages that the page shows."""
    assert message("out-of-memory") == in_commands(str(fault_of(MemoryError(), tmp_path)), {})
    full = OSError(errno.ENOSPC, "No space left on device", "/data/.ftreg")
    assert message("disk-full") == in_commands(str(fault_of(full, tmp_path)), {})
    assert str(fault_of(full, tmp_path)) == str(disk_full("/data/.ftreg"))
    assert message("extra") == str(MissingExtra("ftreg merge", "torch", "ftreg[train]"))


def test_the_message_of_a_missing_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that has guarded a registry and is not installed any more has the message that the page shows."""
    gate = "@hookimpl\ndef ftreg_check_promotion(alias):\n    return []"
    monkeypatch.syspath_prepend(distribution(tmp_path, "acme-licences", {"licences": gate}))
    with Registry(tmp_path / "home", host=PluginHost()) as registry:
        publish(registry, "bot", {"a": b"1"})
        registry.set_alias("bot:1", "champion")
    monkeypatch.undo()
    with Registry(tmp_path / "home", host=PluginHost()) as registry, pytest.raises(FtregError) as raised:
        registry.set_alias("bot:1", "stable")
    assert in_commands(str(raised.value), {}) == message("gate")


def test_the_message_of_a_busy_run(tmp_path: Path) -> None:
    """Two processes that train the same run: the second one is told what the page shows."""
    from ftreg.core.types import NullProgress
    from ftreg.pipeline.resuming import run_folder

    folder = tmp_path / "runs" / "5f2c"
    with (
        run_folder(folder, "bot", resume=False, progress=NullProgress()),
        pytest.raises(FtregError) as raised,
        run_folder(folder, "bot", resume=False, progress=NullProgress()),
    ):
        raise AssertionError("both hold the folder")
    assert str(raised.value).replace(str(tmp_path), "~/.ftreg") == message("busy-run")


def test_the_transcript_is_put_into_both_pages(tmp_path: Path) -> None:
    """docs/quickstart.md gets the whole log, and the README the main commands of it."""
    transcript = script("transcript")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- transcript: from here -->\nold\n<!-- transcript: to here -->\nafter\n")
    log = "1. Title\n\n$ ftreg verify\nno damage\n0.1 s\n\n$ ftreg merge bot\nversion\nbot-merged:1\n1.5 s\n"
    transcript.put(page, transcript.shortened(log))
    assert page.read_text() == (
        "before\n<!-- transcript: from here -->\n```\n$ ftreg merge bot\nversion\nbot-merged:1\n```\n"
        "<!-- transcript: to here -->\nafter\n"
    )


def test_the_transcripts_of_both_pages_are_of_one_run() -> None:
    """What the README shows is the short form of what docs/quickstart.md shows."""
    transcript = script("transcript")
    pattern = re.compile(r"<!-- transcript: from here -->\n```\n(.*?)\n```\n<!-- transcript: to here -->", re.DOTALL)
    full, short = (
        pattern.search(page.read_text(encoding="utf-8")) for page in (DOCS / "quickstart.md", DOCS.parent / "README.md")
    )
    assert full is not None
    assert short is not None
    assert transcript.shortened(full[1]) == short[1]
