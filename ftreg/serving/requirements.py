"""Requirements: the exact versions of everything that a deployment's server imports, as installed on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from ftreg.core.errors import MissingExtra

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN = "ftreg"
"""ftreg's distribution. It is not pinned, because a package contains the code of ftreg that built it."""

_FOR_GPU = {"onnxruntime": "onnxruntime-gpu", "onnxruntime-genai": "onnxruntime-genai-cuda"}


def pinned(roots: Iterable[str], *, gpu: bool = False) -> list[str]:
    """Return ``name==version`` of all distributions that ``roots`` need, directly or not, sorted.

    Args:
        roots: Requirements such as ``ftreg[serve]``.
        gpu: Replace distributions by their CUDA builds if those have another name.

    Raises:
        MissingExtra: A distribution is not installed.
    """
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(root), root) for root in roots]
    while waiting:
        requirement, root = waiting.pop()
        name = _canonical(requirement.name)
        if all((name, extra) in seen for extra in ("", *requirement.extras)):
            continue
        seen.update((name, extra) for extra in ("", *requirement.extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise MissingExtra("the deployment", requirement.name, root) from None
        if name != OWN:
            # A local version label, as in 2.13.0+cpu, names a build that package indexes may not have.
            found[name] = distribution.version.partition("+")[0]
        waiting += [(needed, root) for needed in _needs(distribution, requirement.extras)]
    return sorted(f"{_FOR_GPU.get(name, name) if gpu else name}=={version}" for name, version in found.items())


def _needs(distribution: metadata.Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield what ``distribution`` with ``extras`` requires on this machine."""
    from packaging.requirements import Requirement

    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _canonical(name: str) -> str:
    """Return the normalized name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
