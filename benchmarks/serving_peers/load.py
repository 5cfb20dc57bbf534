"""The load: many clients, each asking again as soon as it is answered. Prints JSON.

python load.py URL BODY CONCURRENCY REQUESTS [--stream]
"""

import asyncio
import json
import sys
import time

import aiohttp


async def run(url: str, body: bytes, concurrency: int, requests: int, must_hold: str | None) -> dict:
    """Ask ``requests`` times from ``concurrency`` clients; a tenth more first, to warm up, is not counted."""
    latencies: list[float] = []
    failures: list[str] = []
    numbers = iter(range(-requests // 10, requests))
    began = 0.0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal began
        for number in numbers:
            headers = {"Content-Type": "application/json", "X-User-ID": f"user-{number}"}
            started = time.perf_counter()
            if number == 0:
                began = started
            try:
                async with session.post(url, data=body, headers=headers) as answer:
                    text = await answer.read()
                    if answer.status != 200 or (must_hold and must_hold.encode() not in text):
                        failures.append(f"{answer.status} {text[:100]!r}")
            except (TimeoutError, aiohttp.ClientError) as error:
                failures.append(repr(error)[:100])
            if number >= 0:
                latencies.append(time.perf_counter() - started)

    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    latencies.sort()
    return {
        "requests": len(latencies),
        "failed": len(failures),
        "failures": failures[:3],
        "requests_per_second": len(latencies) / seconds,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
    }


if __name__ == "__main__":
    url, body, concurrency, requests = sys.argv[1:5]
    must_hold = sys.argv[5] if len(sys.argv) > 5 else None
    print(json.dumps(asyncio.run(run(url, body.encode(), int(concurrency), int(requests), must_hold))))
