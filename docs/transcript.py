"""Writes what ``ftreg quickstart`` prints into docs/quickstart.md, and the main parts of it into the README.

    python docs/transcript.py [LOG]

Without LOG the quickstart is run in a temporary folder, which takes minutes; with LOG, an earlier run's output is used.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PART = re.compile(r"(<!-- transcript: from here -->\n).*(<!-- transcript: to here -->)", re.DOTALL)

IN_README: Mapping[str, int] = {
    "ftreg run recipes/support-bot-2.yaml": 2,
    "ftreg merge": 2,
    "ftreg quantize": 2,
    "ftreg export": 2,
    "ftreg compare": 26,
    "ftreg lineage": 11,
    "ftreg deploy": 3,
    "ftreg experiment report": 9,
}
"""The commands that the README shows, by their beginning, and how many lines of their output."""


def run_quickstart() -> str:
    """Return what the quickstart prints, without its progress."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ftreg", "quickstart"]
        return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def tidy(log: str) -> str:
    """Return the log with ``~`` for the folder that it was made in."""
    folder = re.search(r"Everything is in (.*)/ftreg-quickstart$", log, re.MULTILINE)
    return (log.replace(folder.group(1), "~") if folder else log).strip("\n")


def shortened(log: str) -> str:
    """Return the parts of the log that the README shows."""
    return "\n\n".join(_shown(log))


def _shown(log: str) -> Iterator[str]:
    """The commands of ``IN_README`` with the beginnings of their outputs, without how long each took."""
    for part in re.split(r"^\$ ", log, flags=re.MULTILINE)[1:]:
        command, *output = (line for line in part.splitlines() if not re.fullmatch(r"\d+\.\d s", line))
        lines = next((count for beginning, count in IN_README.items() if command.startswith(beginning)), None)
        if lines is not None:
            yield "\n".join([f"$ {command}", *output[:lines]]).strip()


def put(page: Path, transcript: str) -> None:
    """Put a transcript into a page, between its markers."""
    text = page.read_text(encoding="utf-8")
    page.write_text(PART.sub(lambda found: f"{found[1]}```\n{transcript}\n```\n{found[2]}", text), encoding="utf-8")


def main() -> None:
    """Put the transcript into both pages."""
    log = tidy(Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else run_quickstart())
    put(DOCS / "quickstart.md", log)
    put(DOCS.parent / "README.md", shortened(log))


if __name__ == "__main__":
    main()
