"""Certificates: compares the result of a step with the version it was made from, before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from ftreg.context import Context
from ftreg.core.errors import CertificateFailed
from ftreg.core.manifest import Json
from ftreg.core.types import Artifact, Source, Splits
from ftreg.pipeline.engines import open_engine


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
    with context.registry.staging() as scratch:
        with open_engine(context, reference) as model:
            probe = make_probe(model.tokenizer, data.test or data.validation)
            file = scratch.files / "source.f32"
            expected = compute_outputs(model, probe, file, what="source", progress=context.progress)
        with open_engine(context, result) as model:
            file = scratch.files / "result.f32"
            found = compute_outputs(model, probe, file, what="result", progress=context.progress)
        parity = measure_parity(expected, found, probe)
    failures = check(parity, artifact.tolerance)
    if failures and not accept:
        raise CertificateFailed(
            f"{result.ref} is too far from {reference.ref}: {'; '.join(failures)}",
            hint="Nothing was published. Choose gentler settings, or publish it anyway with `accept=True`.",
        )
    return {
        "reference": reference.digest,
        "probe": {"source": probe.source, "sequences": len(probe.sequences), "tokens": probe.tokens},
        "parity": asdict(parity),
        "tolerance": asdict(artifact.tolerance),
        "failures": failures,
        "accepted": bool(failures),
    }
