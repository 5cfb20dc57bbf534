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

    The probe text is the dataset's test split, else its validation split, else built-in prompts.

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
    from ftreg.evaluation import check, make_probe, measure_parity  # imports numpy, which is not always installed

    assert artifact.tolerance is not None
    with open_engine(context, reference) as parent, open_engine(context, result) as child:
        probe = make_probe(parent.tokenizer, data.test or data.validation)
        parity = measure_parity(parent, child, probe, progress=context.progress)
    failures = check(parity, artifact.tolerance)
    if failures and not accept:
        raise CertificateFailed(
            f"{result.ref} is too far from {reference.ref}: {'; '.join(failures)}",
            hint="Nothing was published. Choose gentler settings, or publish it anyway with `accept=True`.",
        )
    return {
        "reference": reference.digest,
        "probe": {"source": probe.source, "sequences": len(probe.sequences)},
        "parity": asdict(parity),
        "tolerance": asdict(artifact.tolerance),
        "failures": failures,
        "accepted": bool(failures),
    }
