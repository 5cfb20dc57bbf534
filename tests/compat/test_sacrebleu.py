"""What ftreg assumes of sacrebleu: a failing test names the function of ftreg.compat.sacrebleu to mend."""

from __future__ import annotations

import random

import pytest
from sacrebleu.metrics import BLEU, CHRF

from ftreg.compat.sacrebleu import corpus_score

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "bark", "at", "three", "moons"]


def sentences(seed: int, count: int) -> list[str]:
    """Make sentences of up to twelve words; some are empty."""
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=source.randrange(13))) for _ in range(count)]


@pytest.mark.parametrize("metric", [BLEU(), BLEU(tokenize="char", lowercase=True), CHRF(), CHRF(word_order=2)])
@pytest.mark.parametrize("count", [1, 199, 200, 450])
def test_corpus_score(metric: BLEU | CHRF, count: int) -> None:
    """corpus_score: adding up statistics of parts of a corpus gives the score of the whole."""
    hypotheses, references = sentences(1, count), sentences(2, count)
    expected = metric.corpus_score(hypotheses, [references]).score
    assert corpus_score(metric, zip(hypotheses, references, strict=True)) == pytest.approx(expected, abs=1e-9)


def test_corpus_score_empties_caches() -> None:
    """corpus_score: the tokenizers, which keep what they have seen for the whole process, keep nothing of it."""
    metric = BLEU()
    corpus_score(metric, zip(sentences(1, 10), sentences(2, 10), strict=True))
    inner = metric.tokenizer._post_tokenizer
    assert [type(one).__call__.cache_info().currsize for one in (metric.tokenizer, inner)] == [0, 0]
