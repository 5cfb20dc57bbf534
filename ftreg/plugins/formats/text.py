"""The format text: plain text, as for pre-training."""

from __future__ import annotations

from collections.abc import Mapping

from ftreg.core.manifest import Json
from ftreg.core.types import Example
from ftreg.data.columns import other_fields, text_of


class Text:
    """Rows with ``text``; the loss is computed on all of it."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Return whether ``row`` has this format's columns."""
        return "text" in row

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into an example of plain text."""
        return Example(text=text_of(row, "text"), fields=other_fields(row, ("text",)))
