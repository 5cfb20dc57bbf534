"""Serving with transformers: rows are computed as if alone, and adapters share a base and a batch if they can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig

from ftreg.core.errors import FtregError
from ftreg.plugins.engines import transformers as alone
from ftreg.plugins.engines.ragged import RaggedBatch, RowByRow
from ftreg.plugins.engines.sharing import share
from ftreg.plugins.engines.transformers_serving import serve
from tests.post.helpers import make_adapter, make_job, make_source
from tests.serving.engines import PROMPTS, STEPS, answer, sharp, write

__all__ = ["sharp"]


@pytest.fixture
def adapters(tmp_path):
    """A function ``(base, *configs) -> sources`` of adapters on one base, with random weights and their own digests."""

    def get(base, *configs, **facts):
        source = make_source(base, digest="b3:00ff")
        return [
            make_source(
                make_adapter(base, config, tmp_path / f"adapter-{number}", seed=number, facts=facts),
                "adapter",
                base=source,
                digest=f"b3:ad{number}",
                facts=facts,
            )
            for number, config in enumerate(configs)
        ]

    return get


def lora(**settings):
    """A LoRA of all linear layers, unless told otherwise."""
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings})


def plain_logits(source, prompt):
    """The next token's logits by plain transformers and PEFT, the adapter alone on its base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = source.parent("base").path if source.kind == "adapter" else source.path
    model = AutoModelForCausalLM.from_pretrained(base)
    if source.kind == "adapter":
        model = PeftModel.from_pretrained(model, source.path)
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([prompt])).logits[0, -1].numpy()


@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("gpt2", True), ("qwen2", True), ("qwen3", False)]
)
def test_rows_join_and_leave_without_effect_on_others(architecture, tied, sharp):
    """Whichever rows join or leave, each is continued token for token as ``generate`` continues it alone."""
    folder = sharp(architecture, tied)
    expected = [answer(folder, prompt) for prompt in PROMPTS]
    (engine,) = serve([make_source(folder)], "cpu")
    assert isinstance(engine.batch(), RaggedBatch)

    @given(st.lists(st.one_of(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.just("step"), st.just("leave"))))
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    def check(events):
        batch, alive = engine.batch(), {}
        for event in [[0], *events, "step", "step"]:
            if event == "leave":
                batch.remove([row := next(iter(alive), 0)])
                alive.pop(row, None)
            elif event == "step":
                for row, logits in batch.step({row: tokens[-1] for row, (_, tokens) in alive.items()}).items():
                    alive[row][1].append(int(logits.argmax()))
            else:
                rows, logits = batch.add([("b3:base", PROMPTS[index]) for index in event])
                alive |= {
                    row: (index, [int(each.argmax())]) for row, index, each in zip(rows, event, logits, strict=True)
                }
            for index, tokens in alive.values():
                assert tokens[:STEPS] == expected[index][: len(tokens)]
            done = [row for row, (_, tokens) in alive.items() if len(tokens) >= STEPS]
            batch.remove(done)
            for row in done:
                del alive[row]

    check()


def test_adapters_and_their_base_mix(sharp, adapters):
    """One engine holds a tied base, adapters that replace its embedding, others that do not, and the base itself.

    In mixed batches each gets the logits that plain PEFT computes for it alone, and the answers.
    """
    base = sharp("llama", True)
    embedding = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    sources = adapters(
        base,
        lora(target_modules=["q_proj"]),
        lora(**embedding),
        lora(r=8, use_rslora=True),
        lora(**embedding, r=2),
        lora(target_modules=["v_proj"], modules_to_save=["lm_head"]),
    )
    sources.insert(2, sources[0].parent("base"))
    (engine,) = serve(sources, "cpu")
    assert list(engine.models) == [source.digest for source in sources]
    prompts = [(source.digest, prompt) for prompt in PROMPTS[:3] for source in sources]
    expected = [plain_logits(source, prompt) for prompt in PROMPTS[:3] for source in sources]
    _, logits = engine.batch().add(prompts)
    assert logits.dtype == np.float32
    for ours, theirs in zip(logits, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    first = expected[: len(sources)]
    assert min(np.abs(a - b).max() for place, a in enumerate(first) for b in first[:place]) > 1e-3
    folders = [None if source.kind == "checkpoint" else source.path for source in sources]
    answers = [answer(base, prompt, adapter=folder) for prompt in PROMPTS[:3] for folder in folders]
    assert write(engine.batch(), prompts) == answers


@pytest.mark.parametrize("reverse", [False, True])
def test_the_base_is_there_once(reverse, sharp, adapters):
    """An engine holds the base's parameters once, and each adapter's; tied tensors stay tied."""
    from safetensors import safe_open

    base = sharp("llama", True)
    sources = adapters(base, lora(), lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True), lora(r=2))
    (engine,) = serve(sources[:: -1 if reverse else 1], "cpu")
    (plain,) = serve([sources[0].parent("base")], "cpu")
    stored = 0
    for source in sources:
        with safe_open(source.path / "adapter_model.safetensors", "np") as file:
            stored += sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118 not a mapping
    held = {each.data_ptr(): each.numel() for each in engine.model.parameters()}
    assert sum(held.values()) <= sum(each.numel() for each in plain.model.parameters()) + stored
    assert len(engine.models) == 3


UNMIXABLE = {
    "dora": lora(use_dora=True),
    "bias": lora(bias="all"),
    "norm": lora(modules_to_save=["norm"]),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


@pytest.mark.parametrize("name", UNMIXABLE)
def test_adapters_that_cannot_mix_get_their_own_engine(name, sharp, adapters):
    """Adapters that PEFT cannot mix get an engine of their own, whose batches are as exact."""
    base = sharp("qwen2", True)
    sources = adapters(base, lora(), UNMIXABLE[name], lora(r=2))
    engines = serve(sources, "cpu")
    assert [list(engine.models) for engine in engines] == [["b3:ad0", "b3:ad2"], ["b3:ad1"]]
    _, logits = engines[1].batch().add([("b3:ad1", prompt) for prompt in PROMPTS])
    for prompt, ours in zip(PROMPTS, logits, strict=True):
        theirs = plain_logits(sources[1], prompt)
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    expected = [answer(base, prompt, adapter=sources[1].path) for prompt in PROMPTS]
    assert write(engines[1].batch(), [("b3:ad1", prompt) for prompt in PROMPTS]) == expected


def test_a_prefix_takes_its_part_of_the_context(sharp, adapters):
    """The positions of a trained prefix are not part of the context that a server offers."""
    (source,) = adapters(sharp(), UNMIXABLE["prefix"])
    (engine,) = serve([source], "cpu")
    assert engine.models[source.digest].context == 256 - 4


def test_who_shares(sharp, adapters):
    """Versions share if base and quantization are the same and no adapter replaces what another one updates."""
    base = sharp("llama", False)
    first, head, tuned, other = adapters(
        base, lora(), lora(modules_to_save=["lm_head"]), lora(target_modules=["lm_head"]), lora(r=2)
    )
    quantized = make_source(other.path, "adapter", base=other.parent("base"), digest="b3:4b", facts={
        "base_quantization": {"load_in_4bit": True}
    })  # fmt: skip
    elsewhere = make_source(other.path, "adapter", base=make_source(base, digest="b3:0e"), digest="b3:0f")
    plain = first.parent("base")
    groups = share([first, head, tuned, quantized, elsewhere, plain, other])
    assert groups == [[first, head, plain, other], [tuned], [quantized], [elsewhere]]


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("mistral", {"sliding_window": 8}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        ("bloom", {}),
    ],
    ids=["sliding", "dynamic-rope", "no-positions"],
)
def test_rows_that_cannot_share_a_cache(architecture, settings, tmp_path):
    """If a row's cache or positions would depend on other rows, rows are computed one by one, and exactly."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny import make_tokenizer

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 320, "eos_token_id": 1}
    if architecture == "bloom":
        sizes = {"hidden_size": 64, "n_layer": 2, "n_head": 2, "vocab_size": 320, "eos_token_id": 1}
    else:
        sizes |= {"intermediate_size": 128, "num_key_value_heads": 1, "max_position_embeddings": 32}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (engine,) = serve([make_source(tmp_path)], "cpu")
    assert isinstance(engine.batch(), RowByRow)
    prompts = PROMPTS[:3]
    assert write(engine.batch(), [("b3:base", prompt) for prompt in prompts]) == [
        answer(tmp_path, prompt) for prompt in prompts
    ]


def test_outliers_of_one_row_do_not_change_others(sharp, tmp_path):
    """LLM.int8() changes how a feature is computed in all rows if it is large in one, so its rows are kept apart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftreg.plugins.post.config import QuantizeConfig
    from ftreg.plugins.post.quantize.step import apply

    model = AutoModelForCausalLM.from_pretrained(sharp())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter[::7] *= 8
    for folder in (raw := tmp_path / "raw", quantized := tmp_path / "int8"):
        folder.mkdir()
    model.save_pretrained(raw)
    AutoTokenizer.from_pretrained(sharp()).save_pretrained(raw)
    apply(make_job(make_source(raw), QuantizeConfig(scheme="int8"), quantized))
    (engine,) = serve([make_source(quantized)], "cpu")
    prompts = [("b3:base", prompt) for prompt in PROMPTS]
    _, together = engine.batch().add(prompts)
    apart = np.concatenate([engine.batch().add([prompt])[1] for prompt in prompts])
    assert np.array_equal(together, apart)


def test_adapters_share_a_base_in_four_bits(sharp, adapters):
    """Adapters trained on a 4-bit base share it in 4 bits, with exact results."""
    bits = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "float32",
    }
    sources = adapters(sharp(), lora(), lora(r=8), base_quantization=bits)
    (engine,) = serve(sources, "cpu")
    prompts = [(source.digest, prompt) for prompt in PROMPTS for source in sources]
    _, logits = engine.batch().add(prompts)
    engines = [alone.load(source, "cpu") for source in sources]
    expected = [each.logits([prompt])[0][-1] for prompt in PROMPTS for each in engines]
    for ours, theirs in zip(logits, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_adapters_mix_on_a_gpu(sharp, adapters):
    """On a GPU, mixed batches give the CPU's logits except for rounding."""
    sources = adapters(sharp(), lora(), lora(r=8))
    (engine,) = serve(sources, "cuda")
    assert engine.model.device.type == "cuda"
    _, logits = engine.batch().add([(source.digest, PROMPTS[0]) for source in sources])
    for source, ours in zip(sources, logits, strict=True):
        theirs = plain_logits(source, PROMPTS[0])
        assert np.abs(ours - theirs).max() <= 1e-2 * np.abs(theirs).max()


def test_description_of_a_served_model(sharp, adapters):
    """Tokenizer, context and end tokens are those of the version."""
    (source,) = adapters(sharp("gpt2", True), lora(target_modules=["c_attn"], fan_in_fan_out=True))
    (engine,) = serve([source], "cpu")
    model = engine.models[source.digest]
    assert (model.context, model.ends) == (256, frozenset({1}))
    assert model.tokenizer.decode([1]) == "<|end|>"


def test_files_that_cannot_be_loaded(sharp, adapters, tmp_path):
    """The error names the version that cannot be loaded, even if another one was loaded before it."""
    good, bad = adapters(sharp(), lora(), lora(r=2))
    (bad.path / "adapter_model.safetensors").write_bytes(b"1234")
    with pytest.raises(FtregError, match="cannot be loaded") as caught:
        serve([good, bad], "cpu")
    assert str(bad.path) in str(caught.value)
