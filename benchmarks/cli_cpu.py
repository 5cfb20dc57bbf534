"""CPU time of whole command-line processes: ftreg, mlflow and bentoml, helping and listing 1,000 versions.

``python benchmarks/cli_cpu.py`` measures (it makes .benchenv for the others, once) and writes the result file and the
table; ``--table`` only writes the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE.parent / ".benchenv"
RESULT = HERE / "results" / "cli-cpu.json"
README = HERE / "README.md"
BEGIN, END = "<!-- cli_cpu.py writes from here -->\n", "<!-- to here -->\n"
TARGETS = {"ftreg --help": 0.15, "ftreg models list": 0.30}

FILL_FTREG = """
import sys
from pathlib import Path
from ftreg.core.manifest import Producer
from ftreg.registry import Draft, Registry

producer = Producer("import", "benchmark", "benchmark", "benchmark", "1")
with Registry(sys.argv[1]) as registry:
    for number in range(int(sys.argv[2])):
        with registry.staging() as staging:
            (staging.files / "config.json").write_text(str(number))
            draft = Draft(folder=staging.files, kind="checkpoint", producer=producer)
            registry.publish(f"model-{number % 20}", draft, tags={"owner": "benchmark"})
"""
FILL_MLFLOW = """
import sys
from mlflow.tracking import MlflowClient

client = MlflowClient(sys.argv[1])
for number in range(20):
    client.create_registered_model(f"model-{number}")
for number in range(int(sys.argv[2])):
    client.create_model_version(f"model-{number % 20}", f"file:///models/{number}", tags={"owner": "benchmark"})
    client.create_run("0", tags={"owner": "benchmark"})
"""
FILL_BENTOML = """
import sys
import bentoml

for number in range(int(sys.argv[1])):
    with bentoml.models.create(f"model-{number % 20}", labels={"owner": "benchmark"}) as model:
        open(model.path_of("config.json"), "w").write(str(number))
"""
LIST_MLFLOW = """
import sys
from mlflow.tracking import MlflowClient

for found in MlflowClient(sys.argv[1]).search_model_versions(max_results=50):
    print(found.name, found.version, found.tags)
"""


def main() -> None:
    """Measure and write, or only write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="processes per command")
    parser.add_argument("--versions", type=int, default=1000, help="versions to list")
    parser.add_argument("--table", action="store_true", help="write the table from the last result, measure nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(Path(folder), arguments.runs, arguments.versions)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table(json.loads(RESULT.read_text(encoding="utf-8")))


def measure(folder: Path, runs: int, versions: int) -> dict[str, Any]:
    """Fill a store of each kind with ``versions``, then run all commands in turn, ``runs`` times."""
    peers = peer_python()
    store = f"sqlite:///{folder}/mlflow.db"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("FTREG_", "MLFLOW_", "BENTOML_"))},
        "FTREG_HOME": f"{folder}/ftreg",
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_HOME": f"{folder}/bentoml",
        "BENTOML_DO_NOT_TRACK": "True",
    }
    fill([sys.executable, "-c", FILL_FTREG, f"{folder}/ftreg", str(versions)], env)
    fill([str(peers), "-c", FILL_MLFLOW, store, str(versions)], env)
    fill([str(peers), "-c", FILL_BENTOML, str(versions)], env)
    ours, theirs = Path(sys.executable).parent, peers.parent
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "ftreg --help": [str(ours / "ftreg"), "--help"],
        "ftreg models list": [str(ours / "ftreg"), "models", "list"],
        "ftreg models list --limit 1000": [str(ours / "ftreg"), "models", "list", "--limit", "1000"],
        "mlflow --help": [str(theirs / "mlflow"), "--help"],
        "mlflow runs list": [str(theirs / "mlflow"), "runs", "list", "--experiment-id", "0"],
        "mlflow client, newest 50 versions": [str(peers), "-c", LIST_MLFLOW, store],
        "bentoml --help": [str(theirs / "bentoml"), "--help"],
        "bentoml models list": [str(theirs / "bentoml"), "models", "list"],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):  # The first turn fills the caches of files and bytecode, and is not counted.
        for name, command in commands.items():
            sample = cpu_time(command, env)
            if turn:
                samples[name].append(sample)
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "ftreg": version("ftreg"),
            **{name: peer_version(peers, name) for name in ("mlflow", "bentoml")},
        },
        "runs": runs,
        "listed_versions": versions,
        "commands": {name: summary(found) for name, found in samples.items()},
    }


def peer_python() -> Path:
    """The interpreter of an environment that holds mlflow and bentoml; made where it is missing."""
    python = PEERS / "bin" / "python"
    if not (PEERS / "bin" / "mlflow").exists() or not (PEERS / "bin" / "bentoml").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "mlflow", "bentoml"], check=True)
    return python


def peer_version(python: Path, name: str) -> str:
    """The version of a distribution in another environment."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def fill(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a command that fills a store; show what it says if it fails."""
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"filling failed:\n{done.stdout}\n{done.stderr}")


def cpu_time(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Run a command; return its user and system CPU seconds."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{said.decode()}")
    return usage.ru_utime + usage.ru_stime


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Least, median and most CPU seconds."""
    found = {"min": min(samples), "median": statistics.median(samples), "max": max(samples)}
    return {name: round(seconds, 3) for name, seconds in found.items()}


def machine() -> str:
    """The processor, its cores, and the system."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def write_table(result: Mapping[str, Any]) -> None:
    """Put the result's table into the README, between its marks."""
    bare = result["commands"]["python -c pass"]["median"]
    lines = [
        f"{result['machine']}; Python {result['versions']['python']}, ftreg {result['versions']['ftreg']}, "
        f"mlflow {result['versions']['mlflow']}, bentoml {result['versions']['bentoml']}; {result['runs']} runs each, "
        f"in turn; {result['listed_versions']:,} versions in each store; {result['measured'][:10]}.",
        "",
        "| command | CPU s: min | median | max | above bare Python | target |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in result["commands"].items():
        above = f"{row['median'] - bare:.3f}" if name != "python -c pass" else ""
        target = f"{TARGETS[name]:.2f}" if name in TARGETS else ""
        lines.append(
            f"| `{name}` | {row['min']:.3f} | **{row['median']:.3f}** | {row['max']:.3f} | {above} | {target} |"
        )
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(lines) + "\n"
    README.write_text(f"{before}{BEGIN}{table}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
