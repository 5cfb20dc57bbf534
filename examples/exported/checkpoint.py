"""Answer a prompt with an exported checkpoint, in full precision or quantized, with plain transformers.

A quantized folder names its quantization in config.json, and from_pretrained sets it up.

Run it: python checkpoint.py FOLDER "How do I reset my password?"
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

folder, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)

messages = [{"role": "user", "content": question}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
written = model.generate(**prompt, max_new_tokens=64, do_sample=False)
answer = written[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
