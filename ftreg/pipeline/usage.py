"""Usage: the lines of Python with which an exported folder is loaded, without ftreg."""

from __future__ import annotations

from ftreg.core.manifest import Manifest
from ftreg.core.types import ADAPTER, CHECKPOINT, ONNX

_ANSWER = """\
messages = [{"role": "user", "content": "Hello!"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=64, do_sample=False)[0, prompt["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""

_CHECKPOINT = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
{_ANSWER}"""

_ADAPTER = f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
base = AutoModelForCausalLM.from_pretrained("BASE")
model = PeftModel.from_pretrained(base, ".")
{_ANSWER}"""

_GENAI = """\
import onnxruntime_genai as og
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = og.Model(".")
messages = [{"role": "user", "content": "Hello!"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=len(prompt) + 64, do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(prompt)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)[len(prompt):], skip_special_tokens=True))
"""

_GRAPH = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
for value in (*session.get_inputs(), *session.get_outputs()):
    print(value.name, value.shape, value.type)
"""

_CACHE = """

The graph continues a cache of keys and values, which starts empty (length 0): feed `input_ids`, `attention_mask` over \
the cache and the new tokens, `position_ids` if it is an input, and each `present` output as the `past` input of the \
next call."""


def usage(manifest: Manifest, base: str) -> str:
    """Return how to load a version's folder, as Markdown.

    Args:
        manifest: The version's manifest.
        base: What to load an adapter's base from.
    """
    if manifest.kind == CHECKPOINT:
        return _code(_CHECKPOINT) + _needs(manifest)
    if manifest.kind == ADAPTER:
        text = _code(_ADAPTER.replace('"BASE"', repr(base).replace("'", '"')))
        quantized = manifest.facts.get("base_quantization")
        note = "\n\nIt was trained on a quantized base: load it with " if quantized else ""
        return text + note + (f"`quantization_config=BitsAndBytesConfig(**{quantized!r})`." if quantized else "")
    if manifest.kind == ONNX:
        if manifest.facts.get("runtime") == "genai":
            return _code(_GENAI) + "\n\nIt needs `onnxruntime-genai`." + _needs(manifest)
        return _code(_GRAPH) + _CACHE + _needs(manifest)
    return f"The files are of kind `{manifest.kind}`; the plugin that made them says how to load them."


def _code(text: str) -> str:
    return f"```python\n{text}```"


def _needs(manifest: Manifest) -> str:
    names = ", ".join(f"`{requirement.distribution}`" for requirement in manifest.requires)
    return f"\n\nIt needs {names}." if names else ""
