"""Greedy answers: each prompt continued by the most likely tokens, in a batch that rows leave when they end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ftreg.core.types import Batch


def answer_greedily(
    batch: Batch, digest: str, prompts: Sequence[Sequence[int]], *, steps: int, ends: Collection[int]
) -> list[list[int]]:
    """Continue each prompt, up to and without a token that ends the answer.

    Args:
        batch: An empty batch.
        digest: The model's digest.
        prompts: The prompts' token ids.
        steps: The longest answer, in tokens.
        ends: Token ids that end an answer.
    """
    rows, logits = batch.add([(digest, prompt) for prompt in prompts])
    answers: dict[int, list[int]] = {row: [] for row in rows}
    following = dict(zip(rows, logits, strict=True))
    while following:
        newest = {row: int(values.argmax()) for row, values in following.items()}
        for row, token in newest.items():
            if token not in ends:
                answers[row].append(token)
        done = [row for row, token in newest.items() if token in ends or len(answers[row]) == steps]
        batch.remove(done)
        following = batch.step(newest) if len(done) < len(newest) else {}
    return [answers[row] for row in rows]
