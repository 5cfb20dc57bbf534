"""Packing: putting several short examples into one sequence, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

from ftreg.core.errors import DataError


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute examples over as few sequences of ``capacity`` tokens as best-fit decreasing finds.

    Every index is in exactly one bin. Bins are found by their free space in a bit set, so the time is
    O(n log n + n * capacity / 64). Best-fit decreasing uses at most 11/9 of the fewest possible bins, plus one
    (Johnson, 1973); for training it was proposed by Ding et al., "Fewer Truncations Improve Language Modeling", 2024.

    Args:
        lengths: Tokens of each example, from 1 to ``capacity``.
        capacity: Tokens that a sequence can hold.

    Returns:
        The indices of the examples in each sequence.

    Raises:
        DataError: An example is empty, or longer than ``capacity``.
    """
    bins: list[list[int]] = []
    by_space: list[list[list[int]]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s is set if by_space[s] holds a bin
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise DataError(f"example {index} has {length} tokens; a sequence holds 1 to {capacity}")
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            chosen = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, chosen = capacity, []
            bins.append(chosen)
        chosen.append(index)
        if space > length:
            by_space[space - length].append(chosen)
            spaces |= 1 << (space - length)
    return bins
