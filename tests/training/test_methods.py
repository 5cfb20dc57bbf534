"""The built-in methods: what they train and write, and that other libraries can load it."""

from __future__ import annotations

import json
import math

import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ftreg.core.errors import InfeasiblePlan, InputError, RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.specs import MethodSpec
from ftreg.data import Encoder
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.methods import full, lora, prefix, qlora
from ftreg.plugins.methods.config import FullConfig, LoraConfig, PrefixConfig, QloraConfig
from ftreg.training import load_model
from ftreg.training.batches import Collator, encode_rows
from ftreg.training.objectives.causal_lm import CausalLM
from tests.tiny import make_model
from tests.training.jobs import CHATS, make_job

ARCHITECTURES = ["llama", "gpt2", "qwen2", "qwen3"]
ADAPTERS = [
    (lora, LoraConfig(rank=4)),
    (qlora, QloraConfig(rank=4)),
    (prefix, PrefixConfig(num_virtual_tokens=4)),
]
IDS = ["lora", "qlora", "prefix"]


def tensors(folder):
    """Name -> shape of what a folder's weight file holds."""
    with safe_open(next(folder.glob("*.safetensors")), "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def reload(base, adapter, **arguments):
    """A base with an adapter as plain PEFT loads them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **arguments)
    return peft.PeftModel.from_pretrained(model, adapter).eval()


def loss_of(model, base):
    """The mean loss of a model on the chats that the tests train on."""
    encoder = Encoder(load_tokenizer(base), max_length=64)
    model.config.use_cache = False
    batch = Collator(0)(encode_rows(encoder, CHATS))
    with torch.no_grad():
        return CausalLM(model).loss(model, batch).total.item() / len(batch["targets"])


def test_specs_are_sound():
    """Each method is found by the plugin host, loads, and its configuration says what every field is for."""
    host = PluginHost()
    specs = {spec.name: spec for spec in host.specs(MethodSpec)}
    assert {"full", "lora", "qlora", "prefix"} <= specs.keys()
    for name in ("full", "lora", "qlora", "prefix"):
        assert callable(host.load(specs[name]))
        assert all(field.description for field in host.config_model(specs[name]).model_fields.values())
    assert "mergeable" not in specs["prefix"].capabilities
    assert "gradient-checkpointing" not in specs["prefix"].capabilities


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_saves_a_checkpoint(tmp_path, model_folder, architecture, tied):
    """The checkpoint has the base's tensors, no more and no fewer, all changed, and loads with plain transformers."""
    base = model_folder(architecture, tied)
    job = make_job(tmp_path, base, FullConfig())
    artifact = full.train(job)
    assert tensors(job.staging) == tensors(base)
    assert artifact.facts["tied_embeddings"] is tied
    assert str(base) not in "".join(path.read_text() for path in job.staging.glob("*.json"))
    model, info = transformers.AutoModelForCausalLM.from_pretrained(job.staging, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    same = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert same is tied
    assert model.config.use_cache
    assert loss_of(model.eval(), base) < loss_of(load_model(job).eval(), base)


def test_full_keeps_the_bases_dtype(tmp_path):
    """A bfloat16 base is trained in float32 and saved in bfloat16, unless another dtype is set."""
    base = make_model(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    for setting, dtype in (("base", torch.bfloat16), ("float32", torch.float32)):
        job = make_job(tmp_path / setting, base, FullConfig(dtype=setting))
        full.train(job)
        assert {tensor.dtype for tensor in load_file(job.staging / "model.safetensors").values()} == {dtype}
        assert json.loads((job.staging / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_full_refuses_a_quantized_base(tmp_path):
    """A base whose weights are packed in 4 bits cannot be trained in full."""
    base = make_model(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantized base"):
        full.train(make_job(tmp_path, base, FullConfig()))


@pytest.mark.parametrize(("method", "config"), ADAPTERS, ids=IDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_hold_no_weight_of_the_base(tmp_path, model_folder, architecture, method, config):
    """An adapter's file holds its own tensors only, and its configuration no path of this machine."""
    base = model_folder(architecture, tied=True)
    job = make_job(tmp_path, base, config)
    artifact = method.train(job)
    names = tensors(job.staging)
    assert names
    assert all("lora_" in name or name == "prompt_embeddings" for name in names)
    numbers = sum(math.prod(shape) for shape in names.values())
    assert (job.staging / "adapter_model.safetensors").stat().st_size < 4 * numbers + 8192
    assert artifact.facts["parameters"] == numbers
    assert artifact.measured["changed_tensors"] == artifact.measured["trained_tensors"]
    text = "".join(path.read_text() for path in job.staging.glob("*.json"))
    assert str(base) not in text
    assert str(tmp_path) not in text
    assert json.loads((job.staging / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert "README.md" not in {path.name for path in job.staging.iterdir()}


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (lora, LoraConfig(rank=4)),
        (lora, LoraConfig(rank=4, dora=True, rslora=True, init="orthogonal", bias="lora_only")),
        (lora, LoraConfig(rank=4, init="gaussian", target_modules=("c_attn",), modules_to_save=("ln_f",))),
        (lora, LoraConfig(rank=4, init="pissa", dora=True, rslora=True, modules_to_save=("ln_f",))),
        (prefix, PrefixConfig(num_virtual_tokens=4)),
        (prefix, PrefixConfig(num_virtual_tokens=4, projection=True, hidden_size=16, init="zero")),
    ],
)
def test_what_is_saved_is_what_was_trained(tmp_path, model_folder, method, config):
    """Loaded again by plain PEFT, an adapter has the validation loss that training ended with, below the base's."""
    base = model_folder("gpt2")
    job = make_job(tmp_path, base, config, validation=len(CHATS), max_steps=8, learning_rate=3e-2)
    measured = method.train(job).measured
    model = reload(base, job.staging)
    assert loss_of(model, base) == pytest.approx(measured["final_validation_loss"], abs=1e-5)
    assert measured["final_validation_loss"] < loss_of(load_model(job).eval(), base)


@pytest.mark.parametrize(
    ("architecture", "method", "config"),
    [
        ("mamba", lora, LoraConfig(rank=4)),
        ("jamba", lora, LoraConfig(rank=4)),
        ("falcon", lora, LoraConfig(rank=4)),
        ("llama4_text", lora, LoraConfig(rank=4)),
        ("falcon", prefix, PrefixConfig(num_virtual_tokens=4)),
        ("mixtral", prefix, PrefixConfig(num_virtual_tokens=4)),
    ],
)
def test_families(tmp_path, model_folder, architecture, method, config):
    """Other families train with the defaults, every tensor of the adapter changes, and plain PEFT loads the result."""
    base = model_folder(architecture)
    job = make_job(tmp_path, base, config, validation=len(CHATS), max_steps=8, learning_rate=3e-2)
    measured = method.train(job).measured
    assert measured["changed_tensors"] == measured["trained_tensors"]
    model = reload(base, job.staging)
    assert loss_of(model, base) == pytest.approx(measured["final_validation_loss"], abs=1e-4)
    assert measured["final_validation_loss"] < loss_of(load_model(job).eval(), base)


@pytest.mark.parametrize(
    ("method", "config", "architecture", "reason"),
    [
        (qlora, QloraConfig(), "falcon", "bitsandbytes can quantize nothing in FalconForCausalLM"),
        (qlora, QloraConfig(), "mamba", "MambaForCausalLM .* cannot with quantized ones"),
        (prefix, PrefixConfig(), "mamba", "keys and values in all of its layers, which MambaForCausalLM does not"),
        (prefix, PrefixConfig(), "jamba", "keys and values in all of its layers, which JambaForCausalLM does not"),
    ],
)
def test_bases_that_a_method_cannot_train_on_are_refused(method, config, architecture, reason, model_folder):
    """A method that would change nothing of a base, or cannot work with it, says so before it starts."""
    with pytest.raises(InfeasiblePlan, match=reason):
        method.check(model_folder(architecture), config)
    method.check(model_folder("llama"), config)


def test_a_prefix_that_does_not_fit_is_refused(tmp_path, model_folder):
    """A compressed cache, as DeepSeek's, for which PEFT's prefix has the wrong shape, is refused before training."""
    with pytest.raises(InfeasiblePlan, match="With a prefix, this model cannot be computed"):
        prefix.train(make_job(tmp_path, model_folder("deepseek_v3"), PrefixConfig(num_virtual_tokens=4)))


def test_qlora_counts_what_it_quantizes(tmp_path, model_folder):
    """On a Mixtral the adapter's facts say how little of the base was quantized, and that the experts were not."""
    quantized = qlora.train(make_job(tmp_path, model_folder("mixtral"), QloraConfig(rank=4))).facts["quantized"]
    assert quantized["weights"] < 0.2 * quantized["of"]
    assert "model.layers.*.mlp.experts.gate_up_proj" in quantized["left"]


def test_qlora_is_trained_on_the_base_that_its_facts_describe(tmp_path, model_folder):
    """On the base quantized as the facts say, the adapter has the loss that training ended with."""
    base = model_folder("qwen2")
    job = make_job(tmp_path, base, QloraConfig(rank=4), validation=len(CHATS), max_steps=6)
    artifact = qlora.train(job)
    quantization = artifact.facts["base_quantization"]
    assert artifact.facts["quantized"]["weights"] == artifact.facts["quantized"]["of"] > 0
    assert quantization["bnb_4bit_quant_type"] == "nf4"
    model = reload(base, job.staging, quantization_config=transformers.BitsAndBytesConfig(**quantization))
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    assert loss_of(model, base) == pytest.approx(artifact.measured["final_validation_loss"], abs=1e-5)
    plain = loss_of(reload(base, job.staging), base)
    assert plain != pytest.approx(artifact.measured["final_validation_loss"], abs=1e-5)


def test_4bit_gradients_survive_an_evaluation(tmp_path, model_folder):
    """Gradients through 4-bit layers are the same before and after the model was evaluated."""
    job = make_job(tmp_path, base := model_folder(), QloraConfig(rank=4))
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = lora.add_lora(load_model(job, quantization_config=quantization), job.config)
    batch = Collator(0)(encode_rows(Encoder(load_tokenizer(base), max_length=64), CHATS))
    gradients = []
    for _ in range(2):
        model.train().zero_grad()
        CausalLM(model).loss(model, batch).total.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
        loss_of(model.eval(), base)
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name])


def test_qlora_names_the_layer_that_is_too_narrow(tmp_path):
    """On a CPU, a layer whose width 4-bit kernels cannot work with is named before anything is loaded."""
    base = tmp_path / "base"
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(base)
    with pytest.raises(InputError, match=r"layer model\.layers\.0\.\S+ has 48 output features"):
        qlora.train(make_job(tmp_path, base, QloraConfig()))


@pytest.mark.parametrize(("architecture", "name"), [("llama", "q_porj"), ("gpt2", "q_proj")])
@pytest.mark.parametrize("setting", ["target_modules", "modules_to_save"])
def test_unknown_layers_are_named(tmp_path, model_folder, architecture, name, setting):
    """A layer that the model does not have is an error that lists those it has, even if other names match."""
    good = {"llama": "v_proj", "gpt2": "c_attn"}[architecture]
    config = LoraConfig(**{setting: (good, name)})
    with pytest.raises(RecipeError, match=f"no layer named '{name}'") as caught:
        lora.train(make_job(tmp_path, model_folder(architecture), config))
    assert caught.value.where == f"lora.{setting}"
    for layer in {"llama": ("q_proj", "down_proj"), "gpt2": ("c_attn", "c_fc")}[architecture]:
        assert layer in caught.value.hint


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_tied_embeddings_stay_tied(tmp_path, model_folder, module):
    """Trained in full beside LoRA, tied embeddings are one tensor still, also after PEFT merges them."""
    base = model_folder("llama", tied=True)
    config = LoraConfig(rank=4, modules_to_save=(module,))
    job = make_job(tmp_path, base, config, validation=len(CHATS))
    measured = lora.train(job).measured
    merged = reload(base, job.staging).merge_and_unload()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert loss_of(merged, base) == pytest.approx(measured["final_validation_loss"], abs=1e-5)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_low_rank_updates_of_tied_embeddings_are_refused(tmp_path, model_folder, module):
    """LoRA on one end of tied embeddings, which no merge can keep, is an error; on untied ones it is not."""
    config = LoraConfig(rank=4, target_modules=("q_proj", module))
    with pytest.raises(RecipeError, match="share one tensor"):
        lora.train(make_job(tmp_path / "tied", model_folder("llama", tied=True), config))
    lora.train(make_job(tmp_path / "untied", model_folder("llama"), config))


def test_odd_rank_of_an_orthogonal_start_is_refused(tmp_path, model_folder):
    """Settings that PEFT refuses are an error of the recipe."""
    with pytest.raises(RecipeError, match="even"):
        lora.train(make_job(tmp_path, model_folder(), LoraConfig(rank=3, init="orthogonal")))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_that_moves_a_part_of_the_base_is_undone(tmp_path, model_folder, init):
    """The adapter is saved as plain LoRA of twice the rank, which plain PEFT loads on the base as it is stored."""
    base = model_folder()
    config = LoraConfig(rank=4, init=init, bias="all", modules_to_save=("lm_head",))
    job = make_job(tmp_path, base, config, validation=len(CHATS))
    measured = lora.train(job).measured
    saved = json.loads((job.staging / "adapter_config.json").read_text())
    assert (saved["init_lora_weights"], saved["r"], saved["lora_alpha"]) == (True, 8, 64)
    model = reload(base, job.staging)
    assert loss_of(model, base) == pytest.approx(measured["final_validation_loss"], abs=1e-5)
    assert measured["final_validation_loss"] < loss_of(load_model(job).eval(), base)


def test_starts_that_do_not_fit_are_refused(tmp_path, model_folder):
    """A rank above that of a matrix, a transposed layer for OLoRA, and 4-bit weights are errors of the recipe."""
    with pytest.raises(RecipeError, match="rank of at most 32"):
        lora.train(make_job(tmp_path / "rank", model_folder(), LoraConfig(rank=48, init="pissa")))
    with pytest.raises(RecipeError, match="Use pissa"):
        lora.train(make_job(tmp_path / "turned", model_folder("gpt2"), LoraConfig(rank=4, init="olora")))
    with pytest.raises(ValueError, match="use method lora"):
        QloraConfig(init="pissa")


def test_adapter_starts_as_the_base(tmp_path, model_folder):
    """Whatever the initialization, an untrained adapter changes nothing."""
    job = make_job(tmp_path, base := model_folder(), LoraConfig())
    expected = loss_of(load_model(job).eval(), base)
    for init in ("kaiming", "gaussian", "orthogonal", "pissa", "olora"):
        model = lora.add_lora(load_model(job), LoraConfig(init=init)).eval()
        assert loss_of(model, base) == pytest.approx(expected, abs=1e-5), init


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefix_generates(tmp_path, model_folder, architecture):
    """Greedy generation with a prefix and a cache gives the tokens that single forward passes give."""
    base = model_folder(architecture)
    job = make_job(tmp_path, base, PrefixConfig(num_virtual_tokens=4), validation=4, max_steps=4)
    prefix.train(job)
    model = reload(base, job.staging)
    ids = torch.tensor([[20, 30, 40, 50]])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, eos_token_id=None
    )
    expected = ids
    with torch.no_grad():
        for _ in range(5):
            logits = model(input_ids=expected, attention_mask=torch.ones_like(expected)).logits
            expected = torch.cat([expected, logits[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == expected.tolist()


def test_prefix_refuses_gradient_checkpointing(tmp_path, model_folder):
    """Gradient checkpointing with prefix tuning is an error before anything is loaded."""
    job = make_job(tmp_path, model_folder(), PrefixConfig(), gradient_checkpointing=True)
    with pytest.raises(InfeasiblePlan, match="gradient checkpointing"):
        prefix.train(job)


def test_prefix_fits_heads_wider_than_the_model(tmp_path):
    """A prefix fits models whose heads together are wider than the model, as Qwen3's are."""
    base = make_model(tmp_path / "base", "qwen3")
    config = transformers.AutoConfig.from_pretrained(base)
    config.head_dim = 64
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base)
    job = make_job(tmp_path, base, PrefixConfig(num_virtual_tokens=4), max_steps=2)
    assert prefix.train(job).measured["changed_tensors"] == 1


def test_bases_that_are_no_models_are_refused(tmp_path, model_folder):
    """A folder without a tokenizer, or a checkpoint that lacks weights, is an error that says so."""
    base = make_model(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights .* model\.norm\.weight"):
        lora.train(make_job(tmp_path, base, LoraConfig()))
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        lora.train(make_job(tmp_path, base, LoraConfig()))
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("method", "config"), [*ADAPTERS, (full, FullConfig())], ids=[*IDS, "full"])
def test_methods_on_a_gpu(tmp_path, model_folder, method, config):
    """On a GPU every method trains, in the precision that the GPU has, and evaluates."""
    base = model_folder()
    measured = method.train(make_job(tmp_path, base, config, validation=4, max_steps=6, device="cuda")).measured
    assert measured["device"] == "cuda"
    assert measured["precision"] in ("bf16", "fp16")
    assert measured["peak_cuda_bytes"] > 0
    assert math.isfinite(measured["final_validation_loss"])
