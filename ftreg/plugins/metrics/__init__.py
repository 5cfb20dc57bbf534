"""Built-in metrics over generated answers."""

from __future__ import annotations

from ftreg.plugin import MetricSpec, Requirement, hookimpl

_SACREBLEU = (Requirement("sacrebleu", "ftreg[eval]"),)


@hookimpl
def ftreg_metrics() -> list[MetricSpec]:
    """The built-in metrics."""
    return [
        MetricSpec(
            name="exact_match",
            summary="Share of answers equal to the reference, but for white space",
            impl="ftreg.plugins.metrics.text:exact_match",
            default=True,
        ),
        MetricSpec(
            name="token_f1",
            summary="Mean F1 of the words shared with the reference (SQuAD)",
            impl="ftreg.plugins.metrics.text:token_f1",
            default=True,
        ),
        MetricSpec(
            name="length",
            summary="Lengths of prompts, references and answers in tokens",
            impl="ftreg.plugins.metrics.length:length",
            default=True,
            higher_is_better=None,
        ),
        MetricSpec(
            name="bleu",
            summary="Corpus BLEU from 0 to 100 (sacrebleu)",
            impl="ftreg.plugins.metrics.ngrams:bleu",
            config="ftreg.plugins.metrics.settings:BleuConfig",
            requires=_SACREBLEU,
        ),
        MetricSpec(
            name="chrf",
            summary="Corpus chrF or chrF++ from 0 to 100 (sacrebleu)",
            impl="ftreg.plugins.metrics.ngrams:chrf",
            config="ftreg.plugins.metrics.settings:ChrfConfig",
            requires=_SACREBLEU,
        ),
        MetricSpec(
            name="rouge",
            summary="Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (rouge-score)",
            impl="ftreg.plugins.metrics.ngrams:rouge",
            config="ftreg.plugins.metrics.settings:RougeConfig",
            requires=(Requirement("rouge-score", "ftreg[rouge]"),),
        ),
        MetricSpec(
            name="classification",
            summary="Accuracy, macro F1 and confusion matrix of answers that are labels",
            impl="ftreg.plugins.metrics.classification:classification",
            config="ftreg.plugins.metrics.settings:ClassificationConfig",
        ),
        MetricSpec(
            name="json",
            summary="Share of answers that are JSON, and that match a schema",
            impl="ftreg.plugins.metrics.json_answers:json_answers",
            config="ftreg.plugins.metrics.settings:JsonConfig",
            requires=(Requirement("jsonschema", "ftreg[eval]"),),
        ),
        MetricSpec(
            name="scores",
            summary="Scores from a file, such as those of people, by criteria",
            impl="ftreg.plugins.metrics.scores:scores",
            config="ftreg.plugins.metrics.settings:ScoresConfig",
        ),
        MetricSpec(
            name="judge",
            summary="Scores by criteria from a model behind an OpenAI-compatible API",
            impl="ftreg.plugins.metrics.judge:judge",
            config="ftreg.plugins.metrics.settings:JudgeConfig",
        ),
    ]
