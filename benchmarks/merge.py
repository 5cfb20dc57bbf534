"""Merging a LoRA adapter into a 2 GB base: wall time, CPU time and peak memory of ftreg beside PEFT and mergekit.

Each contender works in a process of its own, from files to files: PEFT's ``merge_and_unload`` and ``save_pretrained``;
mergekit's ``passthrough`` of base and adapter; ftreg's merge step alone; and ``ftreg.merge``, which also certifies the
result against the live adapter and registers it. What is timed starts after the imports. Two peaks are counted above
what the imports take: of resident memory, which includes pages of mapped files, and of its part that no file backs.

    python benchmarks/merge.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import ENVIRONMENT, ROOT, finish, hardware, run_contender, write_result

LIBRARIES = ("torch", "transformers", "peft")
PEERS = ROOT / ".benchenv-merge"
MERGEKIT_VERSION = "0.1.5"
PEFT, MERGEKIT, STEP, CERTIFIED = (
    "PEFT merge_and_unload + save",
    "mergekit, passthrough of base+adapter",
    "ftreg, merge step alone",
    "ftreg merge, certified and registered",
)


def prepare(folder: Path) -> None:
    """Write a base (Llama, 0.53 billion parameters, fp32) and an adapter of rank 16, and register both."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from ftreg import Registry
    from ftreg.core.capabilities import FULL_PRECISION, MERGEABLE
    from ftreg.core.manifest import Parent, Producer
    from ftreg.data import stdlib_docstrings
    from ftreg.registry import Draft
    from ftreg.training import BaseConfig, create_base

    texts = [example.text or "" for example in stdlib_docstrings()]
    create_base(folder / "base", texts, BaseConfig(vocab_size=4096, hidden_size=64, layers=1, heads=2), 0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=1536, intermediate_size=4096, num_hidden_layers=15, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "base")
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    with Registry(folder / "registry") as registry:
        base = registry_version(registry, folder / "base", Draft, Producer, (), "checkpoint", (FULL_PRECISION,))
        parents = (Parent("base", base.digest),)
        registry_version(registry, folder / "adapter", Draft, Producer, parents, "adapter", (MERGEABLE,))


def registry_version(registry: Any, folder: Path, draft: Any, producer: Any, parents: Any, kind: str, can: Any) -> Any:
    """Publish the files of a folder under its name."""
    with registry.staging() as staging:
        shutil.copytree(folder, staging.files, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
        made = producer("method", "lora", "methods", "ftreg", "0")
        content = draft(folder=staging.files, kind=kind, producer=made, parents=parents, capabilities=list(can))
        return registry.publish(folder.name, content)


def work_of(contender: str, folder: Path, target: Path) -> Callable[[], Any]:
    """Import what a contender needs, and return its work: it reads what ``prepare`` wrote, and writes into ``target``.

    mergekit applies an adapter by PEFT, to a copy of the model on disk, and then writes its result from that copy.
    """
    if contender == MERGEKIT:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        models = [{"model": f"{folder / 'base'}+{folder / 'adapter'}"}]
        config = {"merge_method": "passthrough", "dtype": "float32", "models": models}
        options = MergeOptions(lora_merge_cache=str(target / "cache"))
        return lambda: run_merge(MergeConfiguration.model_validate(config), str(target / "merged"), options)
    if contender == PEFT:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        def merge_and_save() -> None:
            base = AutoModelForCausalLM.from_pretrained(folder / "base")
            PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(target)

        return merge_and_save
    import ftreg
    from ftreg.core.types import Input, StepJob
    from ftreg.plugins.post.config import MergeConfig
    from ftreg.plugins.post.merge import apply

    registry = ftreg.Registry(folder / "registry")
    if contender == STEP:
        inputs = (Input("adapter", registry.source("adapter")),)
        return lambda: apply(StepJob(inputs=inputs, config=MergeConfig(), staging=target, report=folder))
    return lambda: ftreg.merge("adapter", registry=registry)


def measure(contender: str, folder: Path) -> dict[str, float]:
    """Merge in this process; return what it took."""
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401  # transformers imports it when a model is made

    target = folder / "merged"
    target.mkdir()
    work = work_of(contender, folder, target)
    torch.ones(1) @ torch.ones(1)
    anonymous = AnonymousMemory()
    usage, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    made = work()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    shutil.rmtree(target)
    if contender == CERTIFIED:
        from ftreg import Registry

        registry = Registry(folder / "registry")
        registry.delete(made.ref)
        registry.gc(grace=0)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_bytes": (after.ru_maxrss - usage.ru_maxrss) * 1024,
        "peak_anonymous_bytes": anonymous.peak(),
    }


class AnonymousMemory:
    """Watches this process's resident memory that no file backs, in a thread, every 10 ms: no counter has its peak."""

    def __init__(self) -> None:
        self._first = self._highest = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak(self) -> int:
        """Stop watching, and return the peak above what was resident at first, in bytes."""
        self._done.set()
        self._thread.join()
        return self._highest - self._first

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._highest = max(self._highest, self._now())

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def peer_python() -> Path:
    """Return the interpreter of an environment with mergekit and the pinned libraries; made if it is missing."""
    python = PEERS / "bin" / "python"
    if not (PEERS / ".ready").exists():
        venv.create(PEERS, with_pip=True)
        constraints = ROOT / "constraints.txt"
        pip = [python, "-m", "pip", "install", "-q", "-c", constraints]
        subprocess.run([*pip, f"mergekit=={MERGEKIT_VERSION}", *LIBRARIES], check=True)
        (PEERS / ".ready").touch()
    return python


def main() -> None:
    """Run every contender in turn, several times over, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.folder)
        return
    if options.contender:
        finish(measure(options.contender, options.folder))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (PEFT, MERGEKIT, STEP, CERTIFIED)}
    peers = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        script = [str(Path(__file__).resolve()), "--folder", folder]
        subprocess.run([sys.executable, *script, "--prepare"], check=True, env=ENVIRONMENT)
        size = sum(path.stat().st_size for path in Path(folder, "base").glob("*.safetensors"))
        for _ in range(options.repeats):
            for name, found in runs.items():
                python = peers if name == MERGEKIT else sys.executable
                found.append(run_contender(name, [python, *script, "--contender", name]))
                last = found[-1]
                print(f"{name:40} {last['seconds']:6.1f} s  {last['cpu_seconds']:6.1f} CPU s  "
                      f"{last['peak_bytes'] / 1e9:5.2f} GB, of which without a file "
                      f"{last['peak_anonymous_bytes'] / 1e9:5.2f}", flush=True)  # fmt: skip
    result = {
        "hardware": hardware(),
        "versions": {**{name: version(name) for name in LIBRARIES}, "mergekit": MERGEKIT_VERSION},
        "date": datetime.now(UTC).date().isoformat(),
        "base_bytes": size,
        "runs": runs,
    }
    write_result("merge-cpu.json", result, "merge.py", report(result))


def report(result: dict[str, Any]) -> str:
    """The result as a table: medians, in ratio to PEFT's and to the base's size."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in result["runs"].items()
    }
    peer, size = medians[PEFT], result["base_bytes"]
    hardware, versions = result["hardware"], result["versions"]
    lines = [
        f"{hardware['cpu']}, {hardware['cores']} cores; {', '.join(f'{name} {versions[name]}' for name in versions)}; "
        f"base of {size / 1e9:.2f} GB in fp32; medians of {len(result['runs'][PEFT])} runs each, in turn; "
        f"{result['date']}.",
        "",
        "| contender | seconds | of PEFT's | CPU seconds | peak memory, GB | of PEFT's | of the base "
        "| peak without a file, GB | of PEFT's |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in medians.items():
        seconds, peak, anonymous = row["seconds"], row["peak_bytes"], row["peak_anonymous_bytes"]
        lines.append(
            f"| {name} | **{seconds:.1f}** | {seconds / peer['seconds']:.2f} | {row['cpu_seconds']:.1f} | "
            f"**{peak / 1e9:.2f}** | {peak / peer['peak_bytes']:.2f} | {peak / size:.2f} | "
            f"{anonymous / 1e9:.2f} | {anonymous / peer['peak_anonymous_bytes']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
