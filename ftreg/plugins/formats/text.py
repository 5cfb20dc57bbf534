"""The format text: plain text, as for pre-training."""

from __future__ import annotations

from collections.abc import Mapping

from ftreg.core.manifest import Json
from ftreg.core.types import Example
from ftreg.data.columns import other_fields, text_of


class Text:
    """Rows with ``text``, all of which is trained on."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Say whether the columns of ``row`` are this format's."""
        return "text" in row

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into an example of plain text."""
        return Example(text=text_of(row, "text"), fields=other_fields(row, ("text",)))
