"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
_MOST_HELD = 16  # tokens that may be held back before an earlier cut is looked for
_LONGEST_CHARACTER = 4  # bytes, and so tokens, of a character in UTF-8

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Decodes tokens one by one.

    The pieces joined are what ``decode`` makes of all tokens at once. A token is decoded together with those before it
    that were last decoded, since many tokenizers write a token's leading space only after another; a character
    of several tokens is held back until it is whole. Both take a number of tokens that does not grow with the text.

    Args:
        decode: Decodes tokens.
        silent: Tokens without text, which are left out.
    """

    def __init__(self, decode: Decode, silent: frozenset[int] = frozenset()) -> None:
        self._decode = decode
        self._silent = silent
        self._ids: list[int] = []
        self._read = 0  # how many of the ids have been decoded for good
        self._known = ""  # their text

    def add(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        if token in self._silent:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith(_BROKEN):
            return self._cut(text) if len(self._ids) - self._read > _MOST_HELD else ""
        return self._advance(text, len(self._ids)) if len(text) > len(self._known) else ""

    def flush(self) -> str:
        """The text of what is held back; the answer ends here."""
        text = self._decode(self._ids)
        return self._advance(text, len(self._ids))

    def _advance(self, text: str, end: int) -> str:
        """Let ``text``, that of the ids before ``end``, be certain; return what of it is new."""
        new = text[len(self._known) :]
        self._ids = self._ids[self._read :]
        self._read = end - self._read
        self._known = self._decode(self._ids[: self._read])
        return new

    def _cut(self, text: str) -> str:
        """Cut a long run of broken characters before the last that may still become whole."""
        for end in range(len(self._ids) - 1, len(self._ids) - _LONGEST_CHARACTER - 1, -1):
            head = self._decode(self._ids[:end])
            if head + self._decode(self._ids[end:]) == text:
                return self._advance(head, end)
        return ""


class Stops:
    """Ends a text before the first stop string in it.

    The first is the one that is complete first; of those that end together, the longest.

    Args:
        stops: The stop strings; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """Take a piece; return the text that is certain now, and whether a stop string has ended it."""
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
        """The text that was held back since a stop string might have begun."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """How many characters at the end of ``text`` may begin a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        return next((size for size in range(longest, 0, -1) if self._begins(text[len(text) - size :])), 0)

    def _begins(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)


class TextWriter:
    """The text of one answer: a detokenizer, and the stop strings after it."""

    def __init__(self, decode: Decode, silent: frozenset[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode, silent)
        self._stops = Stops(stops)

    def add(self, token: int) -> tuple[str, bool]:
        """Take a token; return the text that is certain now, and whether a stop string has ended it."""
        return self._stops.add(self._detokenizer.add(token))

    def flush(self) -> tuple[str, bool]:
        """The text that was held back, and whether a stop string has ended it."""
        text, stopped = self._stops.add(self._detokenizer.flush())
        return (text, True) if stopped else (text + self._stops.flush(), False)
