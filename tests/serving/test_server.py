"""A deployment from the command line to the official OpenAI client, against a real ``bentoml serve``."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from ftreg import Registry
from tests.command import ftreg
from tests.serving.fakes import HANG_SECONDS
from tests.serving.servers import serving

ADMIN = "an-admin-token"
ASK = [{"role": "user", "content": "What colour is sky?"}]


@dataclass
class Deployed:
    """A running deployment of ``bot:1`` (80) and ``bot:2`` (20) with the shadow ``bot-merged:1``."""

    url: str
    env: dict[str, str]
    home: Path

    def client(self, **options: object) -> openai.OpenAI:
        """An OpenAI client of the server that does not try again, so that no failure is hidden."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **options)


@pytest.fixture(scope="module")
def deployed(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Deployed from a copy of the registry that is deleted before the server starts."""
    folder = tmp_path_factory.mktemp("deployed")
    shutil.copytree(registry.home, folder / "registry")
    env = {"BENTOML_HOME": str(folder / "bentoml"), "FTREG_ADMIN_TOKEN": ADMIN}
    flags = ("--variant", "bot:1=80", "--variant", "bot:2=20", "--shadow", "bot-merged", "--json")
    done = ftreg("deploy", "colours", *flags, home=folder / "registry", env=env)
    assert json.loads(done.stdout)["tag"].startswith("colours:")
    shutil.rmtree(folder / "registry")
    with serving("bentoml", "serve", "colours:latest", log=folder / "log", env=env) as url:
        yield Deployed(url, env, registry.home)


def test_chat_plain_and_streamed_agree(deployed: Deployed) -> None:
    """The official client gets the same greedy text plain and in pieces, with usage and headers."""
    client = deployed.client()
    plain = client.chat.completions.with_raw_response.create(
        model="colours", messages=ASK, temperature=0, max_tokens=16, extra_headers={"X-User-ID": "ada"}
    )
    answer = plain.parse()
    pieces = list(
        client.chat.completions.create(
            model="colours", messages=ASK, temperature=0, max_tokens=16, stream=True,
            stream_options={"include_usage": True}, extra_headers={"X-User-ID": "ada"},
        )
    )  # fmt: skip
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == answer.choices[0].message.content
    assert text
    assert pieces[-1].usage == answer.usage
    assert answer.usage.completion_tokens > 0
    assert plain.headers["X-Ftreg-Variant"] in ("bot:1", "bot:2")
    assert plain.headers["X-Ftreg-Digest"].startswith("b3:")
    assert plain.headers["X-Ftreg-Experiment"] == "colours"


def test_a_user_stays_on_one_variant_and_users_are_split(deployed: Deployed) -> None:
    """Each of forty users stays on one variant, and both variants have users."""
    with httpx.Client(base_url=deployed.url, timeout=HANG_SECONDS) as client:

        def variant(user: str) -> str:
            body = {"model": "colours", "prompt": "sky", "max_tokens": 1}
            answer = client.post("/v1/completions", json=body, headers={"X-User-ID": user})
            assert answer.status_code == 200, answer.text
            return answer.headers["X-Ftreg-Variant"]

        first = [variant(f"user {number}") for number in range(40)]
        assert [variant(f"user {number}") for number in range(40)] == first
    assert 1 <= first.count("bot:2") <= 20


def test_pinned_versions_and_models(deployed: Deployed) -> None:
    """The deployment and each of its versions are models; a pinned version answers, an unknown one is a 404."""
    client = deployed.client()
    assert [model.id for model in client.models.list()] == ["colours", "bot:1", "bot:2", "bot-merged:1"]
    merged = client.completions.create(model="bot-merged:1", prompt="What", temperature=0, max_tokens=8)
    live = client.completions.create(model="bot:1", prompt="What", temperature=0, max_tokens=8)
    assert merged.choices[0].text == live.choices[0].text
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="What")
    assert caught.value.code == "model_not_found"


def test_generate_and_feedback(deployed: Deployed) -> None:
    """``/api/v1/generate`` answers, and feedback on its answer is accepted."""
    with httpx.Client(base_url=deployed.url, timeout=HANG_SECONDS) as client:
        body = {"prompt": "What colour is sky?", "max_tokens": 8, "temperature": 0}
        answer = client.post("/api/v1/generate", json=body)
        assert answer.status_code == 200
        assert answer.json()["text"]
        said = {"request_id": answer.headers["X-Request-ID"], "score": 1, "comment": "right"}
        assert client.post("/v1/feedback", json=said).status_code == 200
        assert client.post("/v1/feedback", json=said | {"request_id": "unknown"}).status_code == 404


def test_bentomls_endpoints_and_metrics(deployed: Deployed) -> None:
    """BentoML's health routes work, on the loopback interface only; metrics name variants; unknown routes are 404."""
    with httpx.Client(base_url=deployed.url, timeout=HANG_SECONDS) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert listening(deployed.url) == {"127.0.0.1"}
        metrics = client.get("/metrics").text
        assert 'variant="bot:1"' in metrics
        assert "digest=" in metrics
        missing = client.get("/v1/nothing")
        assert missing.status_code == 404
        assert missing.json()["error"]["message"]


def test_weights_change_under_load_without_a_failed_request(deployed: Deployed) -> None:
    """While clients ask, streamed and not, weights change ten times by PUT and ``ftreg experiment set``."""
    failures: list[str] = []
    done = threading.Event()
    asked = [0]

    def ask(number: int) -> None:
        client = deployed.client()
        while not done.is_set():
            try:
                if number % 2:
                    list(client.completions.create(model="colours", prompt="What", max_tokens=4, stream=True))
                else:
                    client.completions.create(model="colours", prompt="What", max_tokens=4)
                asked[0] += 1
            except openai.OpenAIError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with httpx.Client(base_url=deployed.url, headers=headers, timeout=HANG_SECONDS) as client:
            for share in range(9):
                weights = {"bot:1": 100 - 10 * share, "bot:2": 10 * share}
                changed = client.put("/admin/experiment", json={"weights": weights})
                assert changed.status_code == 200, changed.text
        ftreg("experiment", "set", "colours", "bot:1=80", "bot:2=20", "--url", deployed.url, env=deployed.env)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert asked[0] >= 8
    wrong = httpx.put(f"{deployed.url}/admin/experiment", json={"weights": {"bot:1": 1}}, timeout=HANG_SECONDS)
    assert wrong.status_code == 401


def test_the_record_counts_what_was_asked(deployed: Deployed) -> None:
    """``ftreg experiment report`` reads the record while the server runs."""
    report = json.loads(ftreg("experiment", "report", "colours", "--json", env=deployed.env).stdout)
    text = json.dumps(report)
    assert "bot:1" in text
    assert "bot-merged:1" in text
    assert report["verdict"]["decision"] in ("promote", "roll back", "inconclusive")


def test_serve_runs_a_single_version_from_the_registry(registry: Registry, tmp_path: Path) -> None:
    """``ftreg serve`` answers for one version without packaging it, on the loopback interface alone."""
    env = {"BENTOML_HOME": str(tmp_path / "bentoml"), "FTREG_HOME": str(registry.home)}
    with serving("ftreg", "serve", "bot-merged", log=tmp_path / "log", env=env) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(model="bot-merged", messages=ASK, temperature=0, max_tokens=16)
        assert answer.choices[0].message.content
        assert listening(url) == {"127.0.0.1"}
    assert not (tmp_path / "bentoml" / "models" / "ftreg").exists()


def test_a_changed_weight_keeps_the_server_from_getting_ready(registry: Registry, tmp_path: Path) -> None:
    """A package whose bytes were changed is not served: the server is not ready, and requests fail with the reason."""
    env = {"BENTOML_HOME": str(tmp_path / "bentoml")}
    done = ftreg("deploy", "broken", "--variant", "bot:1", "--json", home=registry.home, env=env)
    models = json.loads(done.stdout)["models"]
    file = next(Path(models[registry.get("bot:1").digest]).rglob("adapter_model.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with serving(
        "bentoml", "serve", "broken:latest", log=tmp_path / "log", env=env, path="/livez", statuses=[503]
    ) as url:
        assert httpx.get(f"{url}/readyz", timeout=HANG_SECONDS).status_code == 503
        answer = httpx.post(f"{url}/v1/completions", json={"model": "broken", "prompt": "x"}, timeout=HANG_SECONDS)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "load_failed"
    assert "is not what its digest says" in (tmp_path / "log").read_text()


def test_a_broken_record_is_answered_with_an_error(registry: Registry, tmp_path: Path) -> None:
    """A server that cannot open its record answers every request with an error, and is not alive."""
    env = {"BENTOML_HOME": str(tmp_path / "bentoml"), "FTREG_STATE": str(tmp_path / "state")}
    ftreg("deploy", "unlucky", "--variant", "bot:1", home=registry.home, env=env)
    (tmp_path / "state" / "unlucky").mkdir(parents=True)
    (tmp_path / "state" / "unlucky" / "experiment.db").write_bytes(b"this is no database" * 100)
    with serving(
        "bentoml", "serve", "unlucky:latest", log=tmp_path / "log", env=env, path="/livez", statuses=[503]
    ) as url:
        answer = httpx.post(f"{url}/v1/completions", json={"model": "unlucky", "prompt": "x"}, timeout=HANG_SECONDS)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "load_failed"


def test_the_admin_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    """All servers of a deployment share one token, even if one was killed while it made the token."""
    from ftreg.serving.service import admin_token

    with ThreadPoolExecutor(8) as several:
        tokens = set(several.map(lambda _: admin_token(tmp_path), range(32)))
    assert len(tokens) == 1
    assert (tmp_path / "admin-token").stat().st_mode & 0o777 == 0o600
    (tmp_path / "admin-token").write_text("")
    assert len(admin_token(tmp_path)) > 30


def listening(url: str) -> set[str]:
    """Return the addresses on which something listens on the port of ``url``."""
    port = httpx.URL(url).port
    sockets = psutil.net_connections("inet")
    return {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN and each.laddr.port == port}
