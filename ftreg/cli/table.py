"""Tables as text: as wide as their content, or fitted to a width without ever cutting a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

_GAP = 2


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Attributes:
        header: The titles of the columns; empty if each row is printed as a list of its own.
        lines: The rows.
        dropped: Optional columns that were left out because the table was too wide, in their order.
    """

    header: str
    lines: tuple[str, ...]
    dropped: tuple[str, ...] = ()


def layout(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
    width: int | None = None,
) -> Table:
    """Lay out a table; a cell of several lines is continued below itself.

    A table that is wider than ``width`` loses ``optional`` columns. If it is still too wide, its cells are wrapped
    between words, except in columns that are aligned to the right; if the words alone are too long, each row becomes a
    list of titles and values.

    Args:
        columns: Titles of the columns.
        rows: Cells, as many in each row as there are columns.
        right: Titles of the columns that are aligned to the right.
        optional: Titles of the columns that may be left out, the least important first.
        width: Characters that a line may have; None for any number.
    """
    natural = _widths(columns, rows)
    kept = list(range(len(columns))) if width is None else _choose(columns, natural, optional, width)
    dropped = [title for index, title in enumerate(columns) if index not in kept]
    widths = [natural[index] for index in kept]
    if width is not None and _total(widths) > width:
        least = [natural[i] if columns[i] in right else _longest_word(columns, rows, i) for i in kept]
        shrunk = _shrink(widths, least, width)
        if shrunk is None:
            return Table("", _lists([columns[index] for index in kept], [[row[i] for i in kept] for row in rows]))
        widths = shrunk
    titles = [columns[index] for index in kept]
    header, *lines = [
        line
        for row in (titles, *([row[index] for index in kept] for row in rows))
        for line in _row(row, widths, [title in right for title in titles])
    ] or [""]
    return Table(header, tuple(lines), tuple(dropped))


def _choose(columns: Sequence[str], natural: Sequence[int], optional: Sequence[str], width: int) -> list[int]:
    """The columns to show: without as many of the optional ones, from the first, as it takes; others may come back."""
    kept = list(range(len(columns)))
    left_out: list[int] = []
    for title in optional:
        if _total([natural[index] for index in kept]) <= width:
            break
        left_out.append(columns.index(title))
        kept.remove(left_out[-1])
    for index in reversed(left_out):
        if _total([natural[other] for other in (*kept, index)]) <= width:
            kept.append(index)
    return sorted(kept)


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """The lines of one row."""
    parts = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        (" " * _GAP)
        .join(
            part.rjust(width) if to_right else part.ljust(width)
            for part, width, to_right in zip(line, widths, right, strict=True)
        )
        .rstrip()
        for line in zip_longest(*parts, fillvalue="")
    ]


def _lists(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Each row as lines of title and value, with an empty line between two rows."""
    label = max(map(len, titles))
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        lines += [
            f"{title:<{label}}  {part}".rstrip()
            for name, cell in zip(titles, row, strict=True)
            for title, part in zip_longest([name], cell.split("\n"), fillvalue="")
            if cell
        ]
    return tuple(lines)


def _wrap(cell: str, width: int) -> list[str]:
    """The lines of a cell, broken between words; a longer word stays whole."""
    lines: list[str] = []
    for line in cell.split("\n"):
        if len(line) <= width:
            lines.append(line)
            continue
        current = ""
        for word in line.split():
            if current and len(current) + 1 + len(word) > width:
                lines.append(current)
                current = word
            else:
                current = f"{current} {word}" if current else word
        lines.append(current)
    return lines


def _shrink(widths: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Narrow the widest columns, none below its longest word, until the table fits; None if it cannot."""
    if _total(least) > room:
        return None
    result = list(widths)
    while _total(result) > room:
        widest = max((i for i in range(len(result)) if result[i] > least[i]), key=lambda i: result[i])
        result[widest] -= 1
    return result


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(len(line) for row in (columns, *rows) for line in row[index].split("\n")) for index in range(len(columns))
    ]


def _longest_word(columns: Sequence[str], rows: Sequence[Sequence[str]], index: int) -> int:
    return max((len(word) for row in (columns, *rows) for word in row[index].split()), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)
