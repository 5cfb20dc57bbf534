"""Answer a prompt with an exported graph of onnxruntime-genai's builder (`runtime=genai`), with onnxruntime-genai.

genai_config.json holds the end-of-sequence tokens and the execution provider.

Run it: python onnx_genai.py FOLDER "How do I reset my password?"
"""

from __future__ import annotations

import sys

import onnxruntime_genai as og
from transformers import AutoTokenizer

folder, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = og.Model(folder)

messages = [{"role": "user", "content": question}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=len(prompt) + 64, do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(prompt)
while not generator.is_done():
    generator.generate_next_token()
answer = generator.get_sequence(0)[len(prompt) :]
print(tokenizer.decode(answer, skip_special_tokens=True))
