"""Answer a prompt with an exported graph that was traced (`runtime=transformers`), with plain ONNX Runtime.

The graph continues a cache of keys and values: each output of a call, after the logits, is an input of the next one.

Run it: python onnx_graph.py FOLDER "How do I reset my password?"
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder, question = Path(sys.argv[1]), sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder / "model.onnx")
inputs = {value.name: value for value in session.get_inputs()}
caches = [name for name in inputs if name not in ("input_ids", "attention_mask", "position_ids")]
types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

# An empty cache has shape (rows, heads, 0, head size).
past = [np.zeros((1, inputs[name].shape[1], 0, inputs[name].shape[3]), types[inputs[name].type]) for name in caches]
messages = [{"role": "user", "content": question}]
tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
new, read, answer = tokens, 0, []
while len(answer) < 64:
    step = {
        "input_ids": np.array([new]),
        "position_ids": np.arange(read, read + len(new))[None],
        "attention_mask": np.ones((1, read + len(new)), dtype=np.int64),
        **dict(zip(caches, past, strict=True)),
    }
    logits, *past = session.run(None, {name: value for name, value in step.items() if name in inputs})
    read += len(new)
    new = [int(logits[0, -1].argmax())]
    if new[0] == tokenizer.eos_token_id:
        break
    answer += new
print(tokenizer.decode(answer, skip_special_tokens=True))
