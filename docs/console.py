"""Runs the commands of the pages ``PAGES``, and writes what they print into the pages.

    python docs/console.py [--check]

In a block of ``console``, each line that starts with ``$`` is followed by what the command prints: standard output and,
if it fails, its error. The commands of the pages run one after the other in one folder, which has a tiny untrained
model and the files of ``write_files``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGES = tuple(DOCS / f"{page}.md" for page in ("own-model", "exporting", "replay", "troubleshooting"))

_BLOCK = re.compile(r"(^```console\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
_MASKS = (
    (re.compile(r"b3:[0-9a-f]+|\b[0-9a-f]{16,}\b"), "DIGEST"),
    (re.compile(r"[-+]?\d[\d.,:e-]*"), "N"),
    (re.compile(r"\s+"), " "),
)


def write_files(folder: Path) -> None:
    """Write the files that the pages work on: a model's folder, data, and recipes."""
    import ftreg

    things = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "sun": "yellow"}
    asks = ("What colour is {}?", "Tell me the colour of {}.", "{}: which colour?", "Is there a colour for {}?")
    rows = [
        {"prompt": ask.format(it), "response": f"{it} is {colour}"} for it, colour in things.items() for ask in asks
    ]
    _write_rows(folder / "faq.jsonl", rows)
    _write_rows(folder / "bad.jsonl", [rows[0], {"prompt": "Which colour is coal?", "response": ""}, rows[0], rows[1]])
    (folder / "prefix.yaml").write_text(
        "name: bot\nbase: ./my-model\ndata: faq.jsonl\nmethod: prefix\nthen:\n  - merge\n", encoding="utf-8"
    )
    with ftreg.Registry(folder / "elsewhere") as registry:
        sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "vocab_size": 320}
        ftreg.export(ftreg.init("tiny", folder / "faq.jsonl", registry=registry, **sizes).ref, to=folder / "my-model",
                     registry=registry)  # fmt: skip
    shutil.copytree(folder / "my-model", folder / "my-classifier")
    config = folder / "my-classifier/config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("ForCausalLM", "ForSequenceClassification"))
    (folder / ".ftreg").mkdir()


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(line: str) -> str:
    """Run a command of ftreg in this process; return what it prints."""
    from ftreg.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(shlex.split(line)[1:])
        except SystemExit as ended:
            failed = bool(ended.code)
    error = err.getvalue().partition("error: ")[2] if failed else ""
    text = out.getvalue() + (f"error: {error}" if error else "")
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def rerun(page: Path, folder: Path) -> str:
    """Return a page's text with the outputs that its commands have now, run in ``folder``."""

    def write(found: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", found[2], re.MULTILINE)
        outputs = [run(command).replace(str(folder), "~/project") for command in commands]
        shown = [f"$ {command}\n{output}".strip() for command, output in zip(commands, outputs, strict=True)]
        return found[1] + "\n\n".join(shown) + "\n" + found[3]

    return _BLOCK.sub(write, page.read_text(encoding="utf-8"))


def masked(text: str) -> str:
    """Return a text without what differs between runs and machines: numbers, digests, and widths of columns."""
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Work in a temporary folder with the files, without the environment's registry and plugins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FTREG_")}
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ.clear()
        os.environ.update(kept, FTREG_PLUGINS="", HF_HUB_OFFLINE="1", BENTOML_HOME=str(Path("bentoml").absolute()))
        try:
            write_files(Path.cwd())
            yield Path.cwd()
        finally:
            os.environ.clear()
            os.environ.update(before)


def main() -> int | str:
    """Write the pages; with ``--check`` only report where they do not show what the commands print."""
    with workplace() as folder:
        texts = {page: (page.read_text(encoding="utf-8"), rerun(page, folder)) for page in PAGES}
    if "--check" not in sys.argv[1:]:
        for page, (_, new) in texts.items():
            page.write_text(new, encoding="utf-8")
        return 0
    changed = [command for old, new in texts.values() for command in _changed(old, new)]
    return "\n".join(["these print something else now; run: python docs/console.py", *changed]) if changed else 0


def _changed(old: str, new: str) -> list[str]:
    """Return the commands of a page, with their new outputs, whose outputs differ in more than what is masked."""
    parts = zip(old.split("\n$ "), new.split("\n$ "), strict=True)
    return [after.split("\n```")[0] for before, after in parts if masked(before) != masked(after)]


if __name__ == "__main__":
    sys.exit(main())
