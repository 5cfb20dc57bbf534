"""The format messages: chats of any number of turns, in OpenAI's or in ShareGPT's columns."""

from __future__ import annotations

from collections.abc import Mapping

from ftreg.core.errors import DataError
from ftreg.core.manifest import Json
from ftreg.core.types import Example, Message
from ftreg.data.columns import kind_of, other_fields

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}


class Messages:
    """Rows with ``messages`` of ``role`` and ``content``, or ``conversations`` of ``from`` and ``value``."""

    def matches(self, row: Mapping[str, Json]) -> bool:
        """Return whether ``row`` has this format's columns."""
        return "messages" in row or "conversations" in row

    def convert(self, row: Mapping[str, Json]) -> Example:
        """Turn a row into a chat with at least one answer."""
        column = "messages" if "messages" in row else "conversations"
        turns = row.get(column)
        if not isinstance(turns, list):
            raise DataError(f"column {column!r} holds {kind_of(turns)}, not a list of turns")
        messages = tuple(_message(turn, f"column {column!r}, turn {number}") for number, turn in enumerate(turns, 1))
        if not any(message.role == "assistant" for message in messages):
            raise DataError(f"column {column!r} has no assistant turn, so there is nothing to train on")
        if messages[0].role == "assistant":
            raise DataError(f"column {column!r} starts with an assistant turn, which has no prompt to answer")
        return Example(messages=messages, fields=other_fields(row, (column,)))


def _message(turn: Json, where: str) -> Message:
    """Read one turn; raise ``DataError`` if it has no known role or no text."""
    if not isinstance(turn, dict):
        raise DataError(f"{where} is {kind_of(turn)}, not an object with role and content")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(f"{where} has the role {role!r}, which is not one of {', '.join(_ROLES)}")
    if turn.get("tool_calls"):
        raise DataError(f"{where} calls tools, which cannot be trained on yet; write the call as content")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = _join_parts(content, where)
    if not isinstance(content, str):
        raise DataError(f"{where} ({role}) holds {kind_of(content)} as content, not text")
    if not content.strip():
        raise DataError(f"{where} ({role}) is empty")
    return Message(_ROLES[role], content)


def _join_parts(parts: list[Json], where: str) -> str:
    """Join content that is given in parts; raise ``DataError`` if a part is not text."""
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(texts) != len(parts):
        raise DataError(f"{where} has content in parts that are not text")
    return "".join(texts)
