"""Certificates: compares the result of a step with the version it was made from, before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ftreg.context import Context
from ftreg.core.errors import CertificateFailed
from ftreg.core.manifest import Json
from ftreg.core.types import ADAPTER, Artifact, Source, Splits
from ftreg.models.borders import Border, find_borders
from ftreg.models.files import read_json
from ftreg.pipeline.engines import find_engine, open_engine

_LONGEST = 8192
"""Borders beyond so many tokens are not probed: the certificate says so."""

_FULL = {"tokens": 512, "prompts": 4, "new_tokens": 16}
"""The probe of a result that is only measured here; its mean figures take this many tokens to be meaningful."""

_FEW = {"tokens": 64, "prompts": 1, "new_tokens": 8}
"""The probe of a result whose changed parts are checked already, and whose every logit is limited, not only a mean.

One prompt, because on CPUs a product of a matrix and one row takes a fraction of the time of one with two rows.
"""


def certify(
    context: Context, reference: Source, result: Source, artifact: Artifact, data: Splits, *, accept: bool
) -> Mapping[str, Json]:
    """Compare ``result`` with ``reference`` on held-out text, and return the certificate.

    One model is loaded at a time, so that comparing them needs no more memory than using one of them. The probe text is
    the dataset's test split, else its validation split, else built-in prompts.

    Args:
        context: Where to work.
        reference: The step's first input.
        result: The step's result, not published yet.
        artifact: The result's description, with its tolerance.
        data: The dataset of the reference's lineage.
        accept: Return the certificate even if the result is outside the tolerance; the certificate says so.

    Raises:
        CertificateFailed: A figure is outside the artifact's tolerance, and ``accept`` is false.
    """
    # Imports numpy, which is not always installed.
    from ftreg.evaluation import check, compute_outputs, make_probe, measure_parity

    assert artifact.tolerance is not None
    borders = _borders_to_probe(context, reference, result)
    size = _FEW if artifact.checked and artifact.tolerance.logit_error is not None else _FULL
    within = [border for border in borders if border.length <= _LONGEST]
    with context.registry.staging() as scratch:
        with open_engine(context, reference) as model:
            probe = make_probe(model.tokenizer, data.test or data.validation, borders=within, **size)
            file = scratch.files / "source.f32"
            expected = compute_outputs(model, probe, file, what="source", progress=context.progress)
            devices = {"source": model.device}
            text_before = _treatment_of_text(model.tokenizer)
        with open_engine(context, result) as model:
            file = scratch.files / "result.f32"
            found = compute_outputs(model, probe, file, what="result", progress=context.progress)
            devices["result"] = model.device
            text_after = _treatment_of_text(model.tokenizer)
        parity, beyond = measure_parity(expected, found, probe)
    covered = {text.border for text in probe.texts}
    failures = check(parity, artifact.tolerance, beyond)
    failures += [f"the {what} differs" for what, before in text_before.items() if text_after[what] != before]
    if failures and not accept:
        raise CertificateFailed(
            f"{result.ref} is too far from {reference.ref}: {'; '.join(failures)}",
            hint="Nothing was published. Choose gentler settings, or publish it anyway with `accept=True`.",
        )
    return {
        "reference": reference.digest,
        "probe": {
            "source": probe.source,
            "texts": len(probe.texts),
            "tokens": probe.tokens,
            "longest": max(len(text.ids) for text in probe.texts),
            "prompts": len(probe.prompts),
            "new_tokens": probe.new_tokens,
        },
        "devices": devices,
        "parity": asdict(parity),
        "beyond": [asdict(each) for each in beyond],
        "not_covered": [asdict(border) for border in borders if border not in covered],
        "tolerance": asdict(artifact.tolerance),
        "failures": failures,
        "accepted": bool(failures),
    }


def _treatment_of_text(tokenizer: Any) -> dict[str, Any]:
    """Return what of a tokenizer must not get lost: with it, the same text is another input, or answers never end."""
    return {
        "chat template": tokenizer.chat_template,
        "end-of-sequence token": tokenizer.eos_token_id,
        "tokenization": tokenizer.encode("How do I reset my password?\n\n1 + 2 = 3 – naïve"),
    }


def _borders_to_probe(context: Context, reference: Source, result: Source) -> tuple[Border, ...]:
    """Return the borders that the two may treat differently: none if one engine computes both by the same settings."""
    before, after = _borders(reference), _borders(result)
    same_engine = find_engine(context.host, reference.kind) == find_engine(context.host, result.kind)
    return () if same_engine and before == after else tuple(sorted({*before, *after}))


def _borders(source: Source) -> tuple[Border, ...]:
    """Return the borders of a model; an adapter has those of its base."""
    if source.kind == ADAPTER:
        return _borders(source.parent("base"))
    return find_borders(read_json(source.path / "config.json", optional=True))
