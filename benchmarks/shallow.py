"""What removing decoder layers gives: decoding speed of a random Llama before and after, with step ``drop-layers``.

Both models decode in turn, in one process on one thread, with plain transformers and its cache. Speed is counted in
tokens per second of CPU time, which other work on the machine disturbs least.

    python benchmarks/shallow.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import hardware, write_result

LAYERS, DROPPED, PROMPT, TOKENS = 12, (5, 7, 9), 32, 32
ROWS = (1, 8)


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write a random Llama (97 million parameters, fp32), and what ``drop-layers`` makes of it; return both folders."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from ftreg.core.manifest import Manifest, Producer
    from ftreg.core.types import TEXT_GENERATION, Input, Source, StepJob
    from ftreg.plugins.post.config import DropLayersConfig
    from ftreg.plugins.post.drop_layers.step import apply

    config = LlamaConfig(
        vocab_size=16_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=LAYERS, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    whole, shallow = folder / "whole", folder / "shallow"
    AutoModelForCausalLM.from_config(config).save_pretrained(whole)
    shallow.mkdir()
    manifest = Manifest("checkpoint", TEXT_GENERATION, (), (), Producer("import", "base", "core", "ftreg", ""))
    source = Source("whole:1", "b3:0", whole, manifest, {}.__getitem__)
    settings = DropLayersConfig(layers=DROPPED)
    apply(StepJob(inputs=(Input("source", source),), config=settings, staging=shallow, report=shallow))
    return whole, shallow


def decode(model: Any, rows: int) -> float:
    """Decode ``TOKENS`` tokens after a prompt, for some rows at once; return tokens per second of CPU time."""
    import torch

    ids = torch.randint(model.config.vocab_size, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
    started = time.process_time()
    model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=TOKENS,
        max_new_tokens=TOKENS, pad_token_id=0,
    )  # fmt: skip
    return rows * TOKENS / (time.process_time() - started)


def main() -> None:
    """Measure both models in turn, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folders = prepare(Path(folder))
        sizes = [sum(file.stat().st_size for file in each.glob("*.safetensors")) for each in folders]
        models = [AutoModelForCausalLM.from_pretrained(each) for each in folders]
        figures: dict[int, list[list[float]]] = {rows: [[], []] for rows in ROWS}
        for rows, speeds in figures.items():
            for model in models:
                decode(model, rows)  # once, uncounted
            for _ in range(repeats):
                for model, measured in zip(models, speeds, strict=True):
                    measured.append(decode(model, rows))
    report = [
        f"{hardware()['cpu']}, one thread; torch {version('torch')}, transformers {version('transformers')}; {repeats} "
        f"runs each, in turn; {PROMPT} prompt and {TOKENS} new tokens, fp32; {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| layers | weights, MB | " + " | ".join(f"tokens per CPU second, batch of {rows}" for rows in ROWS) + " |",
        "|--:|--:|" + "--:|" * len(ROWS),
    ]
    for index, layers in enumerate((LAYERS, LAYERS - len(DROPPED))):
        cells = [f"**{statistics.median(speeds[index]):.1f}**" for speeds in figures.values()]
        report.append(f"| {layers} | {sizes[index] / 1e6:.0f} | {' | '.join(cells)} |")
    result = {"hardware": hardware(), "bytes": sizes, "tokens_per_cpu_second": figures}
    write_result("shallow.json", result, "shallow.py", "\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()
