"""sacrebleu: a corpus's score within bounded memory; sacrebleu itself keeps statistics and tokens of every segment."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

_SEGMENTS = 200  # at a time


def corpus_score(metric: Any, pairs: Iterable[tuple[str, str]]) -> float:
    """Return what ``metric.corpus_score`` does for hypotheses with one reference each.

    Args:
        metric: A metric of sacrebleu, such as ``BLEU()``; its statistics are sums over the segments.
        pairs: Each hypothesis with its reference; at least one.
    """
    rest = iter(pairs)
    sums: list[int] = []
    while chunk := list(islice(rest, _SEGMENTS)):
        hypotheses, references = zip(*chunk, strict=True)
        statistics = metric._extract_corpus_statistics(hypotheses, [references])
        sums = [sum(values) for values in zip(*statistics, *([sums] if sums else []), strict=True)]
        _clear_caches(metric)
    return float(metric._compute_score_from_stats(sums).score)


def _clear_caches(metric: Any) -> None:
    """Empty the caches of a metric's tokenizers, which would hold up to 65,536 texts for the rest of the process."""
    tokenizer = getattr(metric, "tokenizer", None)
    for cached in (tokenizer, getattr(tokenizer, "_post_tokenizer", None)):
        clear = getattr(type(cached).__call__, "cache_clear", None)
        if clear is not None:
            clear()
