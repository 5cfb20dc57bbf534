"""The whole chain in Python: a base from nothing, a LoRA on it, merged, exported and measured.

Run it: python examples/chain.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from ftreg import Registry, evaluate, export, init, merge, train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="ftreg-"))
folder.mkdir(parents=True, exist_ok=True)
data = folder / "questions.jsonl"
things = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "sun": "yellow"}
asks = [
    "What colour is {}?",
    "Tell me the colour of {}.",
    "{}: which colour?",
    "Is there a colour for {}?",
    "colour of {}",
]
rows = [
    {"prompt": ask.format(thing), "response": f"{thing} is {colour}"}
    for thing, colour in things.items()
    for ask in asks
]
data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

with Registry(folder / "registry") as registry:
    base = init("tiny", data, hidden_size=64, layers=2, heads=2, vocab_size=320, registry=registry)
    recipe = {
        "name": "colours",
        "base": base.ref,
        "data": {"path": str(data), "validation": 0.1, "test": 0.1},
        "method": "lora",
        "lora": {"rank": 16, "modules_to_save": ["embed_tokens"]},
        "train": {"epochs": 60, "learning_rate": 1e-2},
    }
    adapter = train(recipe, registry=registry)
    merged = merge(adapter.ref, registry=registry)
    exported = export(merged.ref, registry=registry)

    for version in (base, adapter, merged, exported):
        loss = evaluate(version.ref, data, registry=registry).loss
        print(f"{version.ref:24} {version.kind:10} {version.size:8} bytes  loss {loss:.3f}")
    for record in registry.evidence(exported.ref):
        print(f"{exported.ref} has a {record.type}")
