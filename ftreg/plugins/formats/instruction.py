"""The format instruction: an instruction, optionally an input for it, and the output, as in the Alpaca data set."""

from __future__ import annotations

from collections.abc import Mapping

from ftreg.core.manifest import Json
from ftreg.core.types import Example, Message
from ftreg.data.columns import other_fields, text_of

_COLUMNS = ("instruction", "input", "output", "system")


class Instruction:
    """Rows with ``instruction``, ``output``, and optionally an ``input`` and a ``system`` message."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Return whether ``row`` has this format's columns."""
        return "instruction" in row and "output" in row

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into a chat; the input follows the instruction after an empty line."""
        question = text_of(row, "instruction")
        if given := text_of(row, "input", required=False).strip():
            question = f"{question}\n\n{given}"
        messages = [Message("user", question), Message("assistant", text_of(row, "output"))]
        if system := text_of(row, "system", required=False):
            messages.insert(0, Message("system", system))
        return Example(messages=tuple(messages), fields=other_fields(row, _COLUMNS))
