"""Answer a prompt with an exported adapter over its exported base, with plain transformers and PEFT.

The tokenizer and its chat template are the adapter's: it was trained with them.

Run it: python adapter.py ADAPTER_FOLDER BASE_FOLDER "How do I reset my password?"
"""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, base, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)

messages = [{"role": "user", "content": question}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
written = model.generate(**prompt, max_new_tokens=64, do_sample=False)
answer = written[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
