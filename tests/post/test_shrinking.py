"""Shrinking through the command line: sparse training, Wanda in a pattern, and dropped layers, in one recipe."""

from __future__ import annotations

import json

from transformers import AutoModelForCausalLM

from ftreg import Registry
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.step import apply
from tests.command import ftreg
from tests.post.helpers import make_job, make_source
from tests.tiny import TEXTS


def test_a_recipe_trains_prunes_and_drops(model_folder, tmp_path, staging):
    """The trained version keeps the base's zeros, and the steps after it calibrate on the data of the training."""
    apply(make_job(make_source(model_folder()), PruneConfig(pattern="2:4"), staging))
    rows = [{"text": f"{number}. {text}"} for number, text in enumerate(TEXTS[:12])]
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        f"""
        name: bot
        base: {staging}
        data: faq.jsonl
        method: full
        full: {{keep_zeros: true}}
        train: {{max_steps: 2, max_length: 64}}
        then:
          - prune: {{criterion: wanda, pattern: 1:4, rows: 2, length: 32}}
          - drop-layers: {{count: 1, rows: 2, length: 32}}
        """
    )
    home = tmp_path / "registry"
    done = ftreg("run", tmp_path / "recipe.yaml", "--accept", "--json", home=home)
    assert [version["ref"] for version in json.loads(done.stdout)][-2:] == [
        "bot-pruned:1",
        "bot-pruned-shallow:1",
    ]
    with Registry(home) as registry:
        facts = {ref: registry.get(ref).manifest.facts for ref in ("bot:1", "bot-pruned:1", "bot-pruned-shallow:1")}
        assert facts["bot:1"]["sparsity"] == 0.5
        assert (facts["bot-pruned:1"]["sparsity"], facts["bot-pruned:1"]["pattern"]) == (0.75, "1:4")
        last = facts["bot-pruned-shallow:1"]
        assert (last["layers_before"], last["layers_after"], len(last["dropped_layers"])) == (2, 1, 1)
        [run] = [record for record in registry.evidence("bot-pruned-shallow:1") if record.type == "run"]
        assert len(run.body["block_influence"]) == 2
        model = AutoModelForCausalLM.from_pretrained(registry.source("bot-pruned-shallow:1").path)
    assert model.config.num_hidden_layers == len(model.model.layers) == 1
