"""The format prompt-response: one question, one answer."""

from __future__ import annotations

from collections.abc import Mapping

from ftreg.core.errors import DataError
from ftreg.core.manifest import Json
from ftreg.core.types import Example, Message
from ftreg.data.columns import other_fields, text_of


class PromptResponse:
    """Rows with ``prompt`` and ``response`` or ``completion``, and optionally a ``system`` message."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Return whether ``row`` has this format's columns."""
        return "prompt" in row and ("response" in row or "completion" in row)

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into a chat of one question and one answer."""
        if "response" in row and "completion" in row:
            raise DataError("has both a column 'response' and a column 'completion'")
        answer = "completion" if "completion" in row else "response"
        messages = [Message("user", text_of(row, "prompt")), Message("assistant", text_of(row, answer))]
        if system := text_of(row, "system", required=False):
            messages.insert(0, Message("system", system))
        return Example(messages=tuple(messages), fields=other_fields(row, ("prompt", answer, "system")))
