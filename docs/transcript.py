"""Writes what ``ftreg quickstart`` prints into the README, between its markers.

    python docs/transcript.py [LOG]

Without LOG the quickstart is run in a temporary folder, which takes minutes; with it, an earlier run's output is used.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- transcript: from here -->", "<!-- transcript: to here -->"


def run_quickstart() -> str:
    """What the quickstart prints, progress left out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ftreg", "quickstart"]
        return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def tidy(log: str) -> str:
    """The log without the folder it was made in."""
    folder = re.search(r"Everything is in (.*)/ftreg-quickstart$", log, re.MULTILINE)
    return (log.replace(folder.group(1), "~") if folder else log).strip("\n")


def main() -> None:
    """Put the transcript into the README."""
    log = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else run_quickstart()
    text = README.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    README.write_text(f"{before}{START}\n```\n{tidy(log)}\n```\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
