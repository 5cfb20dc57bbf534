"""Policies: what an alias and a deployment need, enforced by the registry itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json, Producer
from ftreg.core.types import Version
from ftreg.registry import Policy, Registry
from tests.registry.kit import publish

STEP = Producer("step", "quantize", "post", "ftreg", "0.1.0", {})
PASSED = {"failures": [], "parity": {"kl": 0.0}}
FAILED = {"failures": ["KL 0.3 is above 0.1"], "parity": {"kl": 0.3}}


def version(registry: Registry, content: str, *evidence: tuple[str, Mapping[str, Json]], step: bool = False) -> Version:
    """Publish a version of bot, which a step or a training made."""
    made = {"producer": STEP} if step else {}
    return publish(registry, "bot", {"a": content.encode()}, evidence=evidence, **made)


def measured(perplexity: float, dataset: str = "b3:1") -> tuple[str, Mapping[str, Json]]:
    """An evaluation."""
    body = {"dataset": dataset, "split": "test", "examples": 9, "max_length": 1024, "perplexity": perplexity}
    return "evaluation", body


def test_a_certificate_is_needed_of_what_a_step_made(registry: Registry) -> None:
    """A version without one, or with one that failed, gets neither the alias nor a deployment; a training has none."""
    version(registry, "trained")
    version(registry, "bare", step=True)
    version(registry, "accepted", ("certificate", FAILED), step=True)
    version(registry, "good", ("certificate", PASSED), step=True)
    registry.set_policy("bot", Policy(certificate=True))
    for ref, said in (("bot:2", "it has no certificate"), ("bot:3", "accepted although KL 0.3 is above 0.1")):
        with pytest.raises(FtregError, match=f"bot@champion cannot move to {ref}: .*{said}"):
            registry.set_alias(ref, "champion")
        with pytest.raises(FtregError, match=f"{ref} cannot be deployed: .*{said}"):
            registry.check_deployment(ref, "shop")
    for ref in ("bot:1", "bot:4"):
        registry.set_alias(ref, "champion")
        registry.check_deployment(ref, "shop")


def test_the_newest_golden_prompts_have_to_pass(registry: Registry) -> None:
    """Without golden prompts, a run on the newest of them, or a pass, the version is refused, with what to do."""
    bot = version(registry, "1")
    registry.set_policy("bot", Policy(golden=True))

    def refused(said: str) -> None:
        with pytest.raises(FtregError, match=said) as caught:
            registry.set_alias("bot:1", "champion")
        assert "goldens" in str(caught.value.hint)

    refused("bot has no golden prompts")
    for content in (b"old", b"new"):
        goldens = publish(registry, "bot-golden", {"a": content})
        refused("not run on the newest golden prompts")
        registry.add_evidence(bot.ref, "golden", {"goldens": goldens.digest, "failed": 1})
        refused("it fails 1 golden prompts")
        registry.add_evidence(bot.ref, "golden", {"goldens": goldens.digest, "failed": 0})
    registry.set_alias("bot:1", "champion")


@pytest.mark.parametrize(("perplexity", "refused"), [(9.0, False), (10.2, False), (10.21, True), (float("inf"), True)])
def test_perplexity_is_compared_with_the_champion(perplexity: float, refused: bool, registry: Registry) -> None:
    """On the same examples, at most as much higher as the policy says; infinite is refused."""
    version(registry, "1", measured(10.0), measured(1.0, dataset="b3:2"))
    registry.set_policy("bot", Policy(perplexity=0.02))
    registry.set_alias("bot:1", "champion")
    candidate = version(registry, "2", measured(min(perplexity, 1e300)))
    if refused:
        with pytest.raises(FtregError, match=r"is more than 2 % above 10, that of bot:1"):
            registry.set_alias(candidate.ref, "champion")
    else:
        registry.set_alias(candidate.ref, "champion")


def test_perplexity_needs_the_same_examples(registry: Registry) -> None:
    """A version that was measured on others is refused, and the error says to measure both."""
    version(registry, "1", measured(10.0))
    registry.set_alias("bot:1", "champion")
    registry.set_policy("bot", Policy(perplexity=0.02))
    version(registry, "2", measured(1.0, dataset="b3:2"))
    with pytest.raises(FtregError, match="not measured on the same examples as bot:1") as caught:
        registry.set_alias("bot:2", "champion")
    assert "ftreg.evaluate('bot:2')" in str(caught.value.hint)


def test_a_rollback_is_possible(registry: Registry) -> None:
    """A version that was the champion before may be it again, although the one in between is better."""
    version(registry, "1", measured(10.0))
    version(registry, "2", measured(5.0))
    registry.set_policy("bot", Policy(perplexity=0.0))
    for ref in ("bot:1", "bot:2", "bot:1"):
        registry.set_alias(ref, "champion")
    assert registry.get("bot@champion").ref == "bot:1"


def test_evidence_that_says_nothing_shows_nothing(registry: Registry) -> None:
    """Records of the right type without what a policy asks for count as none."""
    version(registry, "1", measured(10.0))
    registry.set_alias("bot:1", "champion")
    registry.set_policy("bot", Policy(certificate=True, golden=True, perplexity=0.1))
    publish(registry, "bot-golden", {"a": b"g"})
    version(registry, "2", ("certificate", {}), ("golden", {}), ("evaluation", {}), step=True)
    with pytest.raises(
        FtregError, match=r"it has no certificate; it was not run on .*; it was not measured on the same"
    ):
        registry.set_alias("bot:2", "champion")


def test_removing_the_alias_is_no_way_around(registry: Registry) -> None:
    """A version is compared with the last champion, also if the alias was removed since."""
    version(registry, "1", measured(10.0))
    version(registry, "2", measured(20.0))
    registry.set_alias("bot:1", "champion")
    registry.set_policy("bot", Policy(perplexity=0.0))
    registry.remove_alias("bot", "champion")
    with pytest.raises(FtregError, match="above 10, that of bot:1"):
        registry.set_alias("bot:2", "champion")
    registry.set_alias("bot:1", "champion")


def test_what_a_policy_does_not_guard(registry: Registry) -> None:
    """Other aliases and other names move as before; without a policy, everything does."""
    version(registry, "1", step=True)
    publish(registry, "other", {"a": b"o"}, producer=STEP)
    registry.set_policy("bot", Policy("production", certificate=True))
    registry.set_alias("bot:1", "champion")
    registry.check_deployment("other:1", "shop")
    with pytest.raises(FtregError, match="no certificate"):
        registry.set_alias("bot:1", "production")
    registry.set_policy("bot", None)
    assert registry.policy("bot") is None
    registry.set_alias("bot:1", "production")


def test_it_holds_for_everyone_and_survives_a_rebuild(registry: Registry) -> None:
    """Without plugins, and after the catalog is rebuilt from the journal, it is enforced too; the log has it."""
    version(registry, "1", step=True)
    registry.set_policy("bot", Policy(certificate=True))
    event = registry.events("bot")[0]
    assert (event.action, event.ref, event.detail["policy"]["certificate"]) == ("policy_set", "bot", True)
    home = registry.home
    Registry.rebuild(home)
    with Registry(home, host=PluginHost(only=())) as other:
        assert other.policy("bot") == Policy(certificate=True)
        with pytest.raises(FtregError, match="no certificate"):
            other.set_alias("bot:1", "champion")


def test_a_policy_that_is_not_understood_refuses(registry: Registry, tmp_path: Path) -> None:
    """A rule of a newer ftreg blocks what the policy guards, until it is known or removed."""
    version(registry, "1")
    registry.set_policy("bot", Policy())
    registry.close()
    journal = registry.home / "events.jsonl"
    journal.write_text(journal.read_text().replace('"golden":false', '"golden":false,"signature":true'))
    shutil.move(registry.home / "registry.db", tmp_path / "old.db")
    Registry.rebuild(registry.home)
    with Registry(registry.home) as newer:
        with pytest.raises(FtregError, match="has a rule that this ftreg does not know: signature"):
            newer.set_alias("bot:1", "champion")
        newer.set_policy("bot", None)
        newer.set_alias("bot:1", "champion")


def test_bad_policies(registry: Registry) -> None:
    """A name that does not exist, an alias that cannot be one, and a negative share are errors."""
    with pytest.raises(UnknownName):
        registry.set_policy("bot", Policy())
    with pytest.raises(InputError):
        Policy("1")
    with pytest.raises(InputError, match="not a share"):
        Policy(perplexity=-0.1)
