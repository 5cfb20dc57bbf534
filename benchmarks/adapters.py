"""Serving two LoRA adapters of one base: tokens/s of mixed batches, and the memory that sharing the base saves.

Speed: eight requests, four for each of two adapters, prompts of 64 tokens, 64 new tokens each. Batched, all eight are
written side by side by one engine; one at a time, the same engine writes them one after the other; beside these, what
one does without ftreg: PEFT's ``set_adapter``, then ``generate``. Prompts and lengths are the same, answers are greedy.

Memory: four adapters that share one base, against four engines that each hold their own; resident memory of a process
of its own, after loading and one answer, above what it is after the imports.

    python benchmarks/adapters.py [--repeats 3] [--tokens 64]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import ENVIRONMENT, finish, hardware, run_contender, write_result

LIBRARIES = ("torch", "transformers", "peft")

ADAPTERS = 4
REQUESTS = 8
PROMPT = 64
BATCHED, APART, PEFT = "ftreg, one mixed batch", "ftreg, one request at a time", "PEFT set_adapter + generate"
SHARED, COPIES = "4 adapters, one base", "4 adapters, 4 bases"


def prepare(folder: Path) -> None:
    """Write the base (Llama, 81 million parameters, fp32) and its adapters (rank 16, all weights random)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from ftreg.data import stdlib_docstrings
    from ftreg.training import BaseConfig, create_base

    texts = [example.text or "" for example in stdlib_docstrings()]
    base = folder / "base"
    create_base(base, texts, BaseConfig(vocab_size=4096, hidden_size=64, layers=1, heads=2), 0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=8,
        num_attention_heads=10,
        num_key_value_heads=10,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=AutoTokenizer.from_pretrained(base).eos_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    for number in range(ADAPTERS):
        model = AutoModelForCausalLM.from_pretrained(base)
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        model.save_pretrained(folder / f"adapter-{number}")


def sources(folder: Path) -> list[Any]:
    """The adapters as an engine sees them."""
    from ftreg.core.manifest import Manifest, Parent, Producer
    from ftreg.core.types import Source

    made_by = Producer("method", "lora", "methods", "ftreg", "0")
    plain = Manifest("checkpoint", "text-generation", (), (), made_by)
    derived = Manifest("adapter", "text-generation", (), (Parent("base", "b3:ba5e"),), made_by)
    base = Source("base:1", "b3:ba5e", folder / "base", plain, {}.__getitem__)
    return [
        Source(f"bot:{number}", f"b3:{number}", folder / f"adapter-{number}", derived, lambda _: base)
        for number in range(ADAPTERS)
    ]


def prompts(count: int) -> list[list[int]]:
    """Seeded prompts, alternating between the two adapters."""
    import torch

    torch.manual_seed(1)
    return torch.randint(10, 32_000, (count, PROMPT)).tolist()


def write(engine: Any, requests: Sequence[tuple[str, list[int]]], tokens: int) -> None:
    """Answer requests side by side, greedily, each with as many tokens."""
    batch = engine.batch()
    rows, logits = batch.add(requests)
    newest = {row: int(found.argmax()) for row, found in zip(rows, logits, strict=True)}
    for _ in range(tokens - 1):
        newest = {row: int(found.argmax()) for row, found in batch.step(newest).items()}


def measure_speed(contender: str, folder: Path, tokens: int) -> dict[str, float]:
    """Tokens per second of one contender, in this process; a first round warms up."""
    from ftreg.plugins.engines.transformers_serving import serve

    both = sources(folder)[:2]
    requests = [(both[place % 2].digest, prompt) for place, prompt in enumerate(prompts(REQUESTS))]
    if contender == PEFT:
        answer = peft_answer(both)
    else:
        (engine,) = serve(both, "cpu")

    def run(count: int) -> None:
        if contender == BATCHED:
            write(engine, requests, count)
            return
        for request in requests:
            if contender == PEFT:
                answer(*request, count)
            else:
                write(engine, [request], count)

    run(4)
    start = time.perf_counter()
    run(tokens)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens_per_second": REQUESTS * tokens / seconds}


def peft_answer(adapters: Sequence[Any]) -> Any:
    """A function (digest, prompt, tokens) that answers with plain PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(adapters[0].parent("base").path)
    names = {adapter.digest: f"adapter{place}" for place, adapter in enumerate(adapters)}
    model = PeftModel.from_pretrained(model, adapters[0].path, adapter_name="adapter0")
    model.load_adapter(adapters[1].path, adapter_name="adapter1")
    model.eval()

    @torch.inference_mode()
    def answer(digest: str, prompt: list[int], tokens: int) -> None:
        model.set_adapter(names[digest])
        config = GenerationConfig(do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)
        model.generation_config = config
        ids = torch.tensor([prompt])
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)

    return answer


def measure_memory(contender: str, folder: Path) -> dict[str, float]:
    """Resident memory that one contender takes, in this process."""
    from ftreg.plugins.engines.transformers_serving import serve

    adapters = sources(folder)
    before = resident()
    groups = [adapters] if contender == SHARED else [[adapter] for adapter in adapters]
    engines = [engine for group in groups for engine in serve(group, "cpu")]
    assert len(engines) == len(groups)
    for engine in engines:
        write(engine, [(digest, prompts(1)[0]) for digest in engine.models], 8)
    return {
        "rss_bytes": resident() - before,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        "before_bytes": before,
    }


def resident() -> int:
    """Resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Run every contender in turn, several times over, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.folder)
    elif options.contender:
        if options.contender in (SHARED, COPIES):
            found = measure_memory(options.contender, options.folder)
        else:
            found = measure_speed(options.contender, options.folder, options.tokens)
        finish(found)
    else:
        run_all(options.repeats, options.tokens)


def run_all(repeats: int, tokens: int) -> None:
    """Measure each contender in processes of its own; write the raw result and the README's section."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (BATCHED, APART, PEFT, SHARED, COPIES)}
    script = [sys.executable, str(Path(__file__).resolve())]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*script, "--prepare", "--folder", folder], check=True, env=ENVIRONMENT, capture_output=True)
        for _ in range(repeats):
            for name, found in runs.items():
                command = [*script, "--contender", name, "--folder", folder, "--tokens", str(tokens)]
                found.append(run_contender(name, command))
                print(f"{name:30} {found[-1]}", flush=True)
        result = {
            "hardware": hardware(),
            "versions": {name: version(name) for name in LIBRARIES},
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "requests": REQUESTS,
            "prompt_tokens": PROMPT,
            "new_tokens": tokens,
            "base_bytes": weight_bytes(Path(folder) / "base"),
            "adapters_bytes": sum(weight_bytes(Path(folder) / f"adapter-{number}") for number in range(ADAPTERS)),
            "runs": runs,
        }
    write_result("adapters-cpu.json", result, "adapters.py", report(result))


def weight_bytes(folder: Path) -> int:
    """The size of the weights in ``folder``."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def report(result: dict[str, Any]) -> str:
    """The result as two tables of medians, with the targets."""
    runs = result["runs"]
    speed = {name: statistics.median(run["tokens_per_second"] for run in runs[name]) for name in (BATCHED, APART, PEFT)}
    memory = {
        name: [statistics.median(run[key] for run in runs[name]) / 1e6 for key in ("rss_bytes", "peak_bytes")]
        for name in (SHARED, COPIES)
    }
    base, adapters = result["base_bytes"] / 1e6, result["adapters_bytes"] / 1e6
    lines = [
        f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores; "
        f"{', '.join(f'{name} {number}' for name, number in result['versions'].items())}; "
        f"{len(runs[BATCHED])} runs each, in turn, medians; {result['requests']} requests, prompts of "
        f"{result['prompt_tokens']} tokens, {result['new_tokens']} new ones; {result['date']}.",
        "",
        "| two adapters on one base | new tokens/s | mixed batch is faster by | target |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | **{value:.0f}** | {speed[BATCHED] / value:.1f}x | {'2x' if name == APART else ''} |"
            for name, value in speed.items()
        ),
        "",
        f"Base {base:.0f} MB, adapters {adapters:.0f} MB together; the target is base x 1.2 + adapters, "
        f"{base * 1.2 + adapters:.0f} MB.",
        "",
        "| | resident memory, MB | peak, MB | in ratio to base + adapters |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | **{value:.0f}** | {peak:.0f} | {value / (base + adapters):.2f} |"
            for name, (value, peak) in memory.items()
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
