"""Metrics that compare n-grams of answers and references, as the field's reference implementations compute them."""

from __future__ import annotations

from array import array
from typing import cast

from ftreg.plugin import MetricJob, Scores
from ftreg.plugins.metrics.settings import BleuConfig, ChrfConfig, RougeConfig

_ROUGE = ("rouge1", "rouge2", "rougeL")


def bleu(job: MetricJob) -> float:
    """Return the corpus BLEU, from 0 to 100 (Papineni et al., 2002, https://aclanthology.org/P02-1040).

    It is sacrebleu's (Post, 2018, https://aclanthology.org/W18-6319), with exponential smoothing.
    """
    from sacrebleu.metrics import BLEU

    from ftreg.compat.sacrebleu import corpus_score

    config = cast(BleuConfig, job.config)
    metric = BLEU(tokenize=config.tokenize, lowercase=config.lowercase)
    return corpus_score(metric, ((one.answer, one.reference) for one in job.answers))


def chrf(job: MetricJob) -> float:
    """Return the corpus chrF, from 0 to 100 (Popović, 2015, https://aclanthology.org/W15-3049), as sacrebleu does."""
    from sacrebleu.metrics import CHRF

    from ftreg.compat.sacrebleu import corpus_score

    config = cast(ChrfConfig, job.config)
    metric = CHRF(word_order=config.word_order, lowercase=config.lowercase)
    return corpus_score(metric, ((one.answer, one.reference) for one in job.answers))


def rouge(job: MetricJob) -> Scores:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004, https://aclanthology.org/W04-1013).

    They are those of Google's rouge-score, which compares the letters a-z and digits alone: texts in other scripts have
    no words for it.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGE), use_stemmer=cast(RougeConfig, job.config).stemmer)
    found = {name: array("d") for name in _ROUGE}
    for one in job.answers:
        for name, score in scorer.score(one.reference, one.answer).items():
            found[name].append(score.fmeasure)
    return Scores.of_examples(found)
