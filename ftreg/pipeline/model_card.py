"""Model cards: the README.md of an exported folder, with everything about it that is on record, and nothing else.

The front matter follows https://huggingface.co/docs/hub/model-cards, so that the Hugging Face Hub shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ftreg.core.errors import CorruptRegistry
from ftreg.core.manifest import Json
from ftreg.core.types import ADAPTER, CHECKPOINT, DATASET, ONNX, Version
from ftreg.pipeline.usage import usage
from ftreg.registry import EvidenceRecord, Registry

MANIFEST = "ftreg.manifest"
"""The file with the manifest, whose BLAKE3 is the version's digest."""

UNKNOWN = "unknown"

_PARITY = ("kl", "kl_max", "top1", "loss_parent", "loss_child", "loss_delta", "greedy_prefix", "logit_error")

_TEACHER = "teacher"  # the role of a model that a version was trained on; a version has none of its weights

_LIBRARIES = {CHECKPOINT: "transformers", ADAPTER: "peft", ONNX: "onnx"}


@dataclass(frozen=True)
class _Ancestor:
    """A version that another one was made from, in a role, over any number of generations."""

    role: str
    version: Version


def model_card(registry: Registry, version: Version) -> str:
    """Return the card of ``version`` as Markdown with YAML front matter."""
    ancestors = list(_ancestors(registry, version))
    models = list(_ancestors(registry, version, without=_TEACHER))
    evidence = registry.evidence(version.digest)
    licences = _licences(registry, version, ancestors)
    parts = [
        f"---\n{_yaml(_front_matter(registry, version, models, evidence, licences))}---",
        f"# {version.name}",
        f"Version {version.number} of `{version.name}`, of kind `{version.kind}`, for {version.manifest.task}. "
        f"ftreg wrote this card from what is on record. Digest: `{version.digest}`.",
        "## How to load it",
        usage(version.manifest, _base_name(registry, models)),
        "## What it was made from",
        _table(["version", "role", "kind", "made by", "digest"], _lineage_rows(version, ancestors)),
        "## How it was made",
        *_recipe_part([version, *(one.version for one in ancestors)]),
        f"Packages:\n\n```yaml\n{_yaml(version.manifest.environment)}```",
        f"Facts:\n\n```yaml\n{_yaml(version.manifest.facts)}```",
        *_data_part(ancestors),
        *_evaluation_part(registry, [version, *(one.version for one in ancestors)]),
        *_certificate_part(registry, evidence),
        "## Licence",
        _licence_text(licences),
        "## Files",
        _table(["file", "bytes", "BLAKE3"], [[e.path, str(e.size), f"`{e.blake3}`"] for e in version.manifest.files]),
        f"`{MANIFEST}` lists these files, and its own BLAKE3 is the version's digest. To check both:",
        _VERIFY,
    ]
    return "\n\n".join(parts) + "\n"


_VERIFY = f"""\
```python
import json, pathlib
from blake3 import blake3

manifest = pathlib.Path("{MANIFEST}").read_bytes()
print("b3:" + blake3(manifest).hexdigest())
for file in json.loads(manifest)["files"]:
    assert blake3(pathlib.Path(file["path"]).read_bytes()).hexdigest() == file["blake3"], file["path"]
```"""


def _ancestors(registry: Registry, version: Version, *, without: str | None = None) -> Iterator[_Ancestor]:
    """Yield what ``version`` was made from, its parents first, each once; not what leads there by the role given."""
    seen = {version.digest}
    waiting = [version]
    while waiting:
        for parent in waiting.pop(0).manifest.parents:
            if parent.digest not in seen and parent.role != without:
                seen.add(parent.digest)
                found = registry.get(parent.digest)
                waiting.append(found)
                yield _Ancestor(parent.role, found)


def _front_matter(
    registry: Registry,
    version: Version,
    models: Sequence[_Ancestor],
    evidence: Sequence[EvidenceRecord],
    licences: Mapping[str, str],
) -> dict[str, Json]:
    """Return the metadata that the Hub reads; ``models`` are those that the weights come from."""
    known = sorted(set(licences.values()))
    facts: dict[str, Json] = {
        "license": known[0] if len(known) == 1 else UNKNOWN if not known or UNKNOWN in known else "other",
        "pipeline_tag": version.manifest.task,
        "tags": list(dict.fromkeys(["ftreg", version.kind, version.manifest.producer.name])),
    }
    if version.kind in _LIBRARIES:
        facts["library_name"] = _LIBRARIES[version.kind]
    if hub := _hub_bases(registry, models):
        facts["base_model"] = hub[0] if len(hub) == 1 else hub
        facts["base_model_relation"] = _relation(version)
    if results := [_result(registry, version, run, figures) for run, figures in _evaluations(evidence).items()]:
        facts["model-index"] = [{"name": version.name, "results": results}]
    return facts


def _relation(version: Version) -> str:
    """Return how a version relates to its base, in the Hub's words."""
    if version.kind == ADAPTER:
        return "adapter"
    if "quantized" in version.manifest.facts or "quantization" in version.manifest.facts:
        return "quantized"
    combined = sum(parent.role == "adapter" for parent in version.manifest.parents)
    return "merge" if combined > 1 else "finetune"


_Run = tuple[str, str, int]
"""What was measured: a dataset's digest, its split, and the number of examples."""


def _evaluations(evidence: Sequence[EvidenceRecord]) -> dict[_Run, dict[str, float]]:
    """Return the newest figure of each metric, by what was measured.

    Those of a metric with several figures are called ``metric.figure``.
    """
    found: dict[_Run, dict[str, float]] = {}
    for body in (record.body for record in evidence if record.type == "evaluation"):
        figures = found.setdefault((body["dataset"], body["split"], body["examples"]), {})
        figures |= {name: body[name] for name in ("loss", "perplexity", "token_accuracy")}
        for metric, result in body["metrics"].items():
            for figure, value in result["figures"].items():
                figures[figure if figure == metric else f"{metric}.{figure}"] = value
    return found


def _result(registry: Registry, version: Version, run: _Run, figures: Mapping[str, float]) -> dict[str, Json]:
    """Return an evaluation as an entry of the Hub's ``model-index``."""
    digest, split, _ = run
    dataset = _name_of(registry, digest)
    return {
        "task": {"type": version.manifest.task},
        "dataset": {"name": dataset, "type": dataset, "split": split},
        "metrics": [{"type": name, "name": name, "value": value} for name, value in figures.items()],
    }


def _lineage_rows(version: Version, ancestors: Sequence[_Ancestor]) -> Iterator[list[str]]:
    for role, each in [("this version", version), *((one.role, one.version) for one in ancestors)]:
        producer = each.manifest.producer
        yield [each.ref, role, each.kind, f"{producer.type} {producer.name}", f"`{each.digest}`"]


def _recipe_part(versions: Iterable[Version]) -> Iterator[str]:
    """Yield what made each version, with all settings; imports have none."""
    for each in versions:
        producer = each.manifest.producer
        if producer.type != "import":
            package = f"{producer.distribution} {producer.version}".rstrip()
            yield f"`{each.ref}`: {producer.type} {producer.name} ({package})"
            yield f"```yaml\n{_yaml(producer.config)}```"


def _data_part(ancestors: Sequence[_Ancestor]) -> Iterator[str]:
    """Yield the section about the datasets in the lineage; nothing if there are none."""
    datasets = [one.version for one in ancestors if one.version.kind == DATASET]
    if not datasets:
        return
    yield "## Data"
    rows = []
    for each in datasets:
        counts = each.manifest.facts.get("rows", {})
        split = ", ".join(f"{count} {name}" for name, count in counts.items())
        rows.append([each.ref, split, each.tags.get("license", UNKNOWN), f"`{each.digest}`"])
    yield _table(["dataset", "rows", "licence", "digest"], rows)


def _evaluation_part(registry: Registry, versions: Iterable[Version]) -> Iterator[str]:
    """Yield the section about the evaluations on record, of the version and of those before it; nothing if none are."""
    rows = [
        [each.ref, _name_of(registry, digest), split, str(examples), name, f"{value:.4g}"]
        for each in versions
        for (digest, split, examples), figures in _evaluations(registry.evidence(each.digest)).items()
        for name, value in figures.items()
    ]
    if rows:
        yield "## Evaluation"
        yield _table(["version", "dataset", "split", "examples", "metric", "value"], rows)


def _certificate_part(registry: Registry, evidence: Sequence[EvidenceRecord]) -> Iterator[str]:
    """Yield the section about the newest certificate; nothing if there is none."""
    body = next((record.body for record in reversed(evidence) if record.type == "certificate"), None)
    if body is None:
        return
    yield "## Certificate"
    device = body.get("devices", {}).get("result") or UNKNOWN
    yield (
        f"Compared with `{_name_of(registry, body['reference'])}` on {body['parity']['tokens']} tokens of "
        f"{body['probe']['source']} text, computed on {device}: "
        + ("**outside its tolerance, and accepted by hand**." if body["accepted"] else "within its tolerance.")
    )
    tolerance = body["tolerance"]
    yield _table(
        ["figure", "measured", "allowed"],
        [[name, f"{body['parity'][name]:.3g}", _allowed(tolerance.get(name))] for name in _PARITY],
    )
    yield from (f"- {failure}" for failure in body["failures"])
    if body["beyond"]:
        yield "At the end of texts that reach beyond a border that the configuration names:"
        keys = ["what", "border", "length", "kl", "top1", "logit_error"]
        yield _table(keys, [[_short(one[key]) for key in keys] for one in body["beyond"]])
    if body["not_covered"]:
        lengths = ", ".join(f"{one['what']} of {one['length']} tokens" for one in body["not_covered"])
        yield f"Not measured: text beyond the {lengths}."


def _licences(registry: Registry, version: Version, ancestors: Sequence[_Ancestor]) -> dict[str, str]:
    """Return the licence of ``version`` if it is tagged with one, else those of the models that it descends from.

    A model's licence is its tag ``license``, else what the front matter of its README.md says, else unknown.
    """
    if "license" in version.tags:
        return {version.ref: version.tags["license"]}
    models = [version, *(one.version for one in ancestors if one.version.kind != DATASET)]
    roots = [each for each in models if all(parent.role == "dataset" for parent in each.manifest.parents)]
    return {each.ref: each.tags.get("license") or _declared_licence(registry, each) for each in roots}


def _declared_licence(registry: Registry, version: Version) -> str:
    """Return the licence that a version's own README.md declares; ``unknown`` if it declares none."""
    if all(entry.path != "README.md" for entry in version.manifest.files):
        return UNKNOWN
    try:
        text = (registry.source(version.digest).path / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else None
    except (CorruptRegistry, OSError, UnicodeError, IndexError, yaml.YAMLError):
        return UNKNOWN
    found = front.get("license_name") or front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else UNKNOWN


def _licence_text(licences: Mapping[str, str]) -> str:
    lines = [f"- `{ref}`: {licence}" for ref, licence in licences.items()]
    if any(licence == UNKNOWN for licence in licences.values()):
        lines.append("\nNo licence is on record where this says unknown: find out before you pass the files on.")
    return "\n".join(lines)


def _hub_bases(registry: Registry, ancestors: Iterable[_Ancestor]) -> list[str]:
    """Return the names on the Hugging Face Hub of the models that a version descends from, as their imports say."""
    uris = [
        str(record.body.get("uri", ""))
        for one in ancestors
        for record in registry.evidence(one.version.digest)
        if record.type == "import"
    ]
    return sorted({uri.removeprefix("hf:").partition("@")[0] for uri in uris if uri.startswith("hf:")})


def _base_name(registry: Registry, ancestors: Sequence[_Ancestor]) -> str:
    """Return what to load an adapter's base from: its name on the Hub, else a placeholder that names the version."""
    hub = _hub_bases(registry, ancestors)
    base = next((one.version for one in ancestors if one.role == "base"), None)
    return hub[0] if hub else f"FOLDER-OF-{base.name}-{base.number}" if base else "FOLDER-OF-BASE"


def _name_of(registry: Registry, digest: str) -> str:
    """Return the reference of a digest, else its beginning: the data of an evaluation may be a file."""
    return registry.ref_of(digest) or digest[:15]


def _allowed(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.3g}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _yaml(value: Mapping[str, Json]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1000)
