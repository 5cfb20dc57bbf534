"""Writes the generated parts of the pages in docs/ from the code: ``python docs/generate.py [--check] [PAGE ...]``.

Such a part stands between two comments, and everything around it is written by hand::

    <!-- generated: settings lora -->
    ...
    <!-- generated: end -->

The first word names a writer, and the words after it are its arguments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reference import commands, functions, hooks, settings

FOLDER = Path(__file__).resolve().parent
PART = re.compile(r"(<!-- generated: (?!end)([^>]+) -->\n).*?(<!-- generated: end -->)", re.DOTALL)

WRITERS: Mapping[str, Callable[..., str]] = {
    "commands": commands.all_commands,
    "errors": functions.errors,
    "functions": functions.public_functions,
    "hooks": hooks.all_hooks,
    "methods-of": functions.methods_of,
    "protocols": hooks.protocols,
    "record": functions.record,
    "records": hooks.records,
    "settings": settings.settings_of,
    "specs": hooks.specs_of_hooks,
}


def generated(page: str) -> str:
    """Return the text of a page with its generated parts as the code has them now."""

    def write(part: re.Match[str]) -> str:
        writer, *arguments = part[2].split()
        return f"{part[1]}\n{WRITERS[writer](*arguments).strip()}\n\n{part[3]}"

    return PART.sub(write, page)


def outdated(pages: Sequence[Path]) -> dict[Path, str]:
    """Return the new text of each page that differs from what the code says."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    return {page: generated(text) for page, text in texts.items() if generated(text) != text}


def main(arguments: Sequence[str]) -> int | str:
    """Write the pages, by default all of docs/; with ``--check`` only report which are out of date."""
    check = "--check" in arguments
    pages = [Path(page) for page in arguments if page != "--check"] or sorted(FOLDER.glob("*.md"))
    found = outdated(pages)
    if check and found:
        return f"out of date: {', '.join(page.name for page in found)}; run: make docs"
    for page, text in found.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
