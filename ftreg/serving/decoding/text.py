"""Incremental detokenization: text as tokens arrive, in whole characters, and cut before a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
_MAX_HELD = 16  # tokens held back for an incomplete character before an earlier cut is looked for
_LONGEST_CHARACTER = 4  # bytes, and so tokens, of a character in UTF-8

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Decodes tokens one by one.

    The pieces joined equal ``decode`` of all tokens at once. A token is decoded together with those decoded just before
    it, since many tokenizers write a token's leading space only after another token; a character of several tokens is
    held back until it is complete. The number of tokens decoded at each call does not grow with the text.

    Args:
        decode: Decodes a list of tokens.
        special: Tokens without text, which are left out.
    """

    def __init__(self, decode: Decode, special: frozenset[int] = frozenset()) -> None:
        self._decode = decode
        self._special = special
        self._ids: list[int] = []
        self._read = 0  # how many of the ids have been returned as text
        self._known = ""  # their text

    def add(self, token: int) -> str:
        """Add a token; return the text that can no longer change."""
        if token in self._special:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith(_BROKEN):
            return self._cut(text) if len(self._ids) - self._read > _MAX_HELD else ""
        return self._advance(text, len(self._ids)) if len(text) > len(self._known) else ""

    def flush(self) -> str:
        """End the text; return what was held back."""
        text = self._decode(self._ids)
        return self._advance(text, len(self._ids))

    def _advance(self, text: str, end: int) -> str:
        """Accept ``text``, which is that of the ids before ``end``; return the part that was not returned before."""
        new = text[len(self._known) :]
        self._ids = self._ids[self._read :]
        self._read = end - self._read
        self._known = self._decode(self._ids[: self._read])
        return new

    def _cut(self, text: str) -> str:
        """Cut a long run of incomplete characters before the last one that may still be completed."""
        for end in range(len(self._ids) - 1, len(self._ids) - _LONGEST_CHARACTER - 1, -1):
            head = self._decode(self._ids[:end])
            if head + self._decode(self._ids[end:]) == text:
                return self._advance(head, end)
        return ""


class StopChecker:
    """Ends a text before the first stop string in it.

    The first is the one that is complete first; of those that end at the same place, the longest.

    Args:
        stops: The stop strings; none of them is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """Add a piece; return the text that cannot belong to a stop string, and whether a stop string has ended it."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """End the text; return what was held back because a stop string might have begun."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Count the characters at the end of ``text`` with which a stop string may begin."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        return next((size for size in range(longest, 0, -1) if self._begins(text[len(text) - size :])), 0)

    def _begins(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)


class TextStream:
    """The text of one completion: a detokenizer followed by a check for stop strings."""

    def __init__(self, decode: Decode, special: frozenset[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode, special)
        self._stops = StopChecker(stops)

    def add(self, token: int) -> tuple[str, bool]:
        """Add a token; return the text that can no longer change, and whether a stop string has ended it."""
        return self._stops.add(self._detokenizer.add(token))

    def flush(self) -> tuple[str, bool]:
        """End the text; return what was held back, and whether a stop string has ended it."""
        text, stopped = self._stops.add(self._detokenizer.flush())
        return (text, True) if stopped else (text + self._stops.flush(), False)
