"""What the router costs, beside plain Starlette and BentoML's own ways; and weights that change under load.

    python benchmarks/serving.py [--requests 3000]

The engine of ftreg's server here answers at once (``serving_peers/echo_engine.py``), so what is measured is all around
it: BentoML's server, routing, the OpenAI format, the batcher's thread, the experiment's record. The engine and its
batcher are also timed alone, in process. One load generator, in a process of its own, asks all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import hardware, write_result

PEERS = Path(__file__).resolve().parent / "serving_peers"
CONCURRENCIES = (1, 16, 64)
TEXT = "x" * 200
TOKEN = "benchmark"
OURS, STARLETTE, API, DEPENDS = "ftreg", "plain Starlette", "BentoML, @bentoml.api", "BentoML, bentoml.depends"


def write_deployment(folder: Path) -> None:
    """Write a deployment of two models without weights, 50/50, into a folder for ``bentoml serve``."""
    from ftreg.core.manifest import Manifest, Producer
    from ftreg.registry.blobs import digest_of
    from ftreg.serving.deployment import FILE, REQUIREMENTS, Deployment, Limits, Variant

    variants = []
    for number in (1, 2):
        producer = Producer("import", "echo", "benchmark", "benchmark", str(number))
        data = Manifest("echo", "text-generation", (), (), producer).to_bytes()
        digest = digest_of(data)
        place = folder / "models" / digest.removeprefix("b3:")
        (place / "files").mkdir(parents=True)
        (place / "manifest.json").write_bytes(data)
        variants.append(Variant(ref=f"echo:{number}", digest=digest, engine="echo", serve="echo_engine:serve"))
    deployment = Deployment(
        name="echo", experiment="echo", salt="salt", variants=tuple(variants), limits=Limits(batch=64, queue=256)
    )
    (folder / FILE).write_text(deployment.model_dump_json())
    (folder / REQUIREMENTS).write_text("bentoml\n")
    code = "from pathlib import Path\nfrom ftreg.serving.service import make_service\n"
    (folder / "service.py").write_text(code + "service = make_service(Path(__file__).parent)\n")


def running(command: list[str], port: int, ready: str, folder: Path) -> AbstractContextManager[str]:
    """Run a server; the context yields its URL once it is ready, and ends all its processes."""
    from ftreg.api.launch import run_server

    environment = {
        **os.environ,
        "PYTHONPATH": str(PEERS),
        "BENTOML_HOME": str(folder / "bentoml"),
        "FTREG_ADMIN_TOKEN": TOKEN,
    }
    statuses = (200, 404)  # plain Starlette has no health route, and answers 404 once it is there
    return run_server(command, port, log=folder / "log", environment=environment, path=ready, statuses=statuses)


def load(url: str, body: dict[str, Any], concurrency: int, requests: int) -> dict[str, Any]:
    """Run the load generator and return its measurements."""
    command = [sys.executable, str(PEERS / "load.py"), url, json.dumps(body), str(concurrency), str(requests)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def engine_alone(requests: int) -> dict[str, Any]:
    """Time the engine and its batcher in process, without HTTP, routing and record: one token at a time."""
    sys.path.insert(0, str(PEERS))
    from echo_engine import Engine

    from ftreg.serving.decoding.batcher import Batcher
    from ftreg.serving.decoding.generation import Generation
    from ftreg.serving.decoding.sampling import SamplingParams
    from ftreg.serving.decoding.tokenizer import Tokenizer

    class Nothing:
        digest = "b3:0"

    async def measure() -> list[float]:
        engine = Engine([Nothing()])  # type: ignore[list-item]
        batcher, tokenizer = Batcher(engine, rows=64, queue_size=256), Tokenizer(engine.models["b3:0"])
        found = []
        for _ in range(requests):
            started = time.perf_counter()
            generation = Generation(batcher, "b3:0", tokenizer, SamplingParams(max_tokens=1, temperature=0), 60.0)
            generation.start([list(TEXT.encode())], 1, stream=False)
            while await generation.next() is not None:
                pass
            generation.close()
            found.append(time.perf_counter() - started)
        batcher.close()
        return sorted(found)

    found = asyncio.run(measure())
    return {"p50_ms": 1000 * found[requests // 2], "p99_ms": 1000 * found[int(requests * 0.99)]}


def change_weights(url: str, seconds: float = 20.0, changes: int = 20) -> dict[str, Any]:
    """Change the weights many times while sixteen clients ask, half of them for streams; count what failed."""
    plain = {"model": "echo", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 16, "temperature": 0}
    results: list[dict[str, Any]] = []
    stop = time.monotonic() + seconds

    def ask(body: dict[str, Any], must_hold: str) -> None:
        while time.monotonic() < stop:
            command = [
                sys.executable, str(PEERS / "load.py"), f"{url}/v1/chat/completions", json.dumps(body), "8", "1500",
                must_hold,
            ]  # fmt: skip
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    threads = [
        threading.Thread(target=ask, args=(plain, '"finish_reason":')),
        threading.Thread(target=ask, args=(plain | {"stream": True}, "[DONE]")),
    ]
    for thread in threads:
        thread.start()
    made = 0
    for number in range(changes):
        time.sleep(seconds / (changes + 1))
        share = 5 * (number % 20)
        data = json.dumps({"weights": {"echo:1": 100 - share, "echo:2": share}}).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/admin/experiment", data, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            made += answer.status == 200
    for thread in threads:
        thread.join()
    return {
        "changes": made,
        "requests": sum(result["requests"] for result in results),
        "failed": sum(result["failed"] for result in results),
        "failures": [failure for result in results for failure in result["failures"]][:5],
    }


def main() -> None:
    """Measure all servers at all concurrencies, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    chat = {"model": "echo", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 1, "temperature": 0}
    echo = {"text": TEXT}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_deployment(folder / "echo")
        uvicorn = ["uvicorn", "starlette_echo:app", "--log-level", "warning", "--port"]
        bento = ["bentoml", "serve", "--working-dir"]
        servers = {
            STARLETTE: ([*uvicorn, "3901"], 3901, "/nothing", "/echo", echo),
            OURS: ([*bento, str(folder / "echo"), "service:service", "--port", "3902"], 3902, "/readyz",
                   "/v1/chat/completions", chat),
            API: ([*bento, str(PEERS), "bentoml_echo:Echo", "--port", "3903"], 3903, "/readyz", "/echo", echo),
            DEPENDS: ([*bento, str(PEERS), "bentoml_depends:Router", "--port", "3904"], 3904, "/readyz", "/echo", echo),
        }  # fmt: skip
        runs: dict[str, dict[str, Any]] = {}
        weights: dict[str, Any] = {}
        for name, (command, port, ready, path, body) in servers.items():
            with running(command, port, ready, folder) as url:
                runs[name] = {str(c): load(url + path, body, c, options.requests) for c in CONCURRENCIES}
                print(name, json.dumps(runs[name]), flush=True)
                if name == OURS:
                    weights = change_weights(url)
                    print("weights", json.dumps(weights), flush=True)
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("ftreg", "bentoml", "starlette", "uvicorn")},
        "engine_alone": engine_alone(options.requests),
        "runs": runs,
        "weights_changed_under_load": weights,
    }
    write_result("serving-router.json", result, "serving.py", report(result))


def report(result: dict[str, Any]) -> str:
    """The result as a table."""
    hardware, alone, weights = result["hardware"], result["engine_alone"], result["weights_changed_under_load"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    requests = result["runs"][OURS]["1"]["requests"]
    lines = [
        f"{hardware['cpu']}, {hardware['cores']} cores, shared with the load generator; {versions}; {requests} "
        f"requests each; {result['at'][:10]}. The engine and its batcher alone, in process: "
        f"p50 {alone['p50_ms']:.2f} ms, p99 {alone['p99_ms']:.2f} ms.",
        "",
        "| server | clients | p50 ms | p99 ms | requests/s | failed |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, runs in result["runs"].items():
        for clients, run in runs.items():
            lines.append(
                f"| {name} | {clients} | {run['p50_ms']:.2f} | {run['p99_ms']:.2f} "
                f"| **{run['requests_per_second']:.0f}** | {run['failed']} |"
            )
    own = result["runs"][OURS]["1"]
    lines += [
        "",
        "What the router and all around it add to the engine, one client: "
        f"p50 {own['p50_ms'] - alone['p50_ms']:.2f} ms, p99 {own['p99_ms'] - alone['p99_ms']:.2f} ms.",
        "",
        f"Weights changed {weights['changes']} times under sixteen clients, half of them reading streams: "
        f"{weights['requests']} requests, {weights['failed']} failed.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
