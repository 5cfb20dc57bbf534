"""Encoding: what is labelled, what is masked, where sequences end, and what prompts are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import DataError
from ftreg.core.types import Example, Message, NullProgress
from ftreg.data import IGNORED, Encoded, Encoder, read_template
from tests.tiny import CHAT_TEMPLATE, TEXTS, make_tokenizer

UNMARKED = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED_CHATML = CHATML.replace(
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}",
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
    "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>' + '\n' }}",
)
# As Qwen3's: the last answer follows an empty thought, which is dropped once the chat goes on.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As some of Mistral's: the system message moves to the newest question, so earlier prompts change with every turn.
MOVING = (
    "{% set last = (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if m == last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
# As DeepSeek R1's: the prompt opens a thought that no answer in the data has.
OPENING = CHATML.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'")
# No special token between prompt and answer, but a space that byte-level BPE joins with the answer's first word.
SPACED = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ('<|end|>' if m['role'] == 'assistant' else '\n') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEMPLATES = {
    "marked": CHAT_TEMPLATE, "unmarked": UNMARKED, "chatml": CHATML, "marked chatml": MARKED_CHATML,
    "thinking": THINKING, "spaced": SPACED, "plain": None,
}  # fmt: skip


def tokenizer_with(template: str | None, *extra: str, **tokens: str) -> Any:
    """A tiny tokenizer with a chat template, further special tokens, and other roles for its tokens."""
    tokenizer = make_tokenizer(chat=False)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", *extra], **tokens})
    return tokenizer


def metaspace_tokenizer() -> Any:
    """A tokenizer that begins every text with a space of its own, as Llama 2's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def chat(*turns: str, system: str | None = None, **fields: str) -> Example:
    """Make a chat of alternating turns of user and assistant."""
    messages = [Message(("user", "assistant")[index % 2], turn) for index, turn in enumerate(turns)]
    return Example(messages=((Message("system", system),) if system else ()) + tuple(messages), fields=fields)


def labelled(encoder: Encoder, encoded: Encoded) -> list[str]:
    """Return the text of each labelled span."""
    stretches: list[list[int]] = [[]]
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORED, token)
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(token)
    return [encoder.tokenizer.decode(stretch) for stretch in stretches if stretch]


TWO_TURNS = chat("Hi?", "Hello.", "Where?", "Here.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("marked", ["Hello.<|end|>", "Here.<|end|>"]),
        ("unmarked", ["Hello.<|end|>", "Here.<|end|>"]),
        ("chatml", ["Hello.<|im_end|>", "Here.<|im_end|><|end|>"]),
        ("marked chatml", ["Hello.<|im_end|>", "Here.<|im_end|><|end|>"]),
        ("thinking", ["Hello.<|im_end|>", "<think>\n\n</think>\n\nHere.<|im_end|><|end|>"]),
        ("spaced", ["Hello.<|end|>", "Here.<|end|>"]),
        ("plain", ["Hello.<|end|>", "Here.<|end|>"]),
    ],
)
def test_all_answers_are_labelled_with_the_token_that_ends_their_turn(name: str, expected: list[str]) -> None:
    """Answers and their end-of-turn tokens are labelled, questions are not, and exactly one EOS is last."""
    encoder = Encoder(tokenizer_with(TEMPLATES[name]), max_length=500)
    encoded = encoder.encode(TWO_TURNS)
    assert labelled(encoder, encoded) == expected
    eos = encoder.tokenizer.eos_token_id
    assert encoded.input_ids[-1] == encoded.labels[-1] == eos
    assert encoded.input_ids[-2] != eos
    assert (encoded.cut, encoded.skipped) == (0, 0)


words = st.lists(
    st.sampled_from([*"aB .,\n?é😀", "Open", " the", "\n\n", "password", "  "]), min_size=1, max_size=8
).map("".join)
turns = st.lists(words.filter(str.strip), min_size=2, max_size=6).map(lambda turns: turns[: len(turns) // 2 * 2])


@pytest.mark.parametrize("name", TEMPLATES)
@given(turns=turns)
def test_the_prompt_is_the_beginning_of_what_is_trained(name: str, turns: list[str]) -> None:
    """Prompt and answer tokens together are the encoded example; the prompt is the template's for generation."""
    encoder = ENCODERS.setdefault(name, Encoder(tokenizer_with(TEMPLATES[name]), max_length=10_000))
    example = chat(*turns)
    encoded = encoder.encode(example)
    prompt, reference = encoder.prompt(example)
    assert reference == turns[-1]
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[len(prompt) :] == encoded.input_ids[len(prompt) :]
    asked = encoder.tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in example.messages[:-1]],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert encoder.tokenizer.decode(prompt) == asked
    if len(turns) == 2:
        assert encoder.tokenizer(asked, add_special_tokens=False)["input_ids"] == prompt


ENCODERS: dict[str, Encoder] = {}


def test_a_border_that_tokens_would_cross_parts_them() -> None:
    """If a template's prompt ends in a space, that space is a token of the prompt, as it is in generation."""
    tokenizer = tokenizer_with(SPACED)
    whole = tokenizer("user: a\nassistant: the link", add_special_tokens=False)["input_ids"]
    prompt, _ = Encoder(tokenizer, max_length=100).prompt(chat("a", "the link"))
    assert whole[: len(prompt)] != prompt
    assert tokenizer.decode(prompt) == "user: a\nassistant: "


def test_tokenizers_that_begin_texts_with_a_space_are_not_given_more_of_them() -> None:
    """An answer is tokenized as in the whole text, without the space that tokenizing it alone would add."""
    tokenizer = metaspace_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
        "{{ eos_token if m['role'] == 'assistant' else ':' }}{% endfor %}"
    )
    encoder = Encoder(tokenizer, max_length=100)
    encoded = encoder.encode(chat("How", "Open"))
    assert encoded.input_ids == tokenizer("<s>How:Open</s>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([label for label in encoded.labels if label != IGNORED]) == "Open</s>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_eos_is_labelled_even_if_it_also_pads(name: str) -> None:
    """A tokenizer whose pad token is EOS gives the same labels as one with a pad token of its own."""
    plain = Encoder(tokenizer_with(TEMPLATES[name]), max_length=500).encode(TWO_TURNS)
    shared = Encoder(tokenizer_with(TEMPLATES[name], pad_token="<|end|>"), max_length=500)
    assert shared.tokenizer.pad_token_id == shared.tokenizer.eos_token_id
    assert shared.encode(TWO_TURNS) == plain
    assert plain.labels[-1] == shared.tokenizer.eos_token_id


def test_a_template_whose_turns_end_in_eos_gets_no_second_one() -> None:
    """If ChatML's end of turn is EOS itself, the sequence has it once, without the line break after it."""
    encoder = Encoder(tokenizer_with(CHATML, eos_token="<|im_end|>"), max_length=500)
    encoded = encoder.encode(chat("a", "b"))
    assert encoder.tokenizer.decode(encoded.input_ids).endswith("<|im_start|>assistant\nb<|im_end|>")
    assert labelled(encoder, encoded) == ["b<|im_end|>"]


def with_bos(tokenizer: Any) -> Any:
    """Make a tokenizer begin every text with a BOS token, as Llama 3's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("template", ["{{ bos_token }}" + CHATML, None])
def test_bos_is_there_once(template: str | None) -> None:
    """BOS comes once: with a template that writes it, with a tokenizer that adds it, and in plain text."""
    encoder = Encoder(with_bos(tokenizer_with(template)), max_length=500)
    bos = encoder.tokenizer.bos_token_id
    for ids in (
        encoder.encode(TWO_TURNS).input_ids,
        encoder.prompt(TWO_TURNS)[0],
        encoder.encode(Example(text="hello")).input_ids,
    ):
        assert ids[0] == bos
        assert ids.count(bos) == 1


def test_text_is_labelled_as_a_whole() -> None:
    """Every token of a text and the EOS after it are labelled."""
    encoder = Encoder(make_tokenizer(), max_length=100)
    encoded = encoder.encode(Example(text="Open Settings."))
    assert encoded.labels == encoded.input_ids
    assert encoder.tokenizer.decode(encoded.input_ids) == "Open Settings.<|end|>"
    ended = encoder.encode(Example(text="Open Settings.<|end|>"))
    assert ended == encoded


def test_a_cut_answer_gets_no_eos() -> None:
    """``max_length`` cuts the end, EOS with it: the model must not learn to stop in mid-sentence."""
    whole = Encoder(make_tokenizer(), max_length=500).encode(chat("Hi?", "Hello there."))
    cut = Encoder(make_tokenizer(), max_length=len(whole.input_ids) - 3).encode(chat("Hi?", "Hello there."))
    assert cut.input_ids == whole.input_ids[:-3]
    assert cut.labels == whole.labels[:-3]
    assert cut.cut == 3
    assert cut.labelled > 0


class Listener(NullProgress):
    """A Progress that keeps the messages and the last position."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def update(self, done: int, **facts: float | str) -> None:
        self.done = done

    def say(self, message: str) -> None:
        self.said.append(message)


def test_examples_without_labels_are_left_out_and_counted() -> None:
    """An answer that starts beyond ``max_length`` is left out, one that ends there is kept, and both are reported."""
    listener = Listener()
    encoder = Encoder(make_tokenizer(), max_length=20)
    examples = [chat("a", "b"), chat("Where can I see my invoices today" * 3, "b"), chat("a", "a long answer, " * 9)]
    kept = encoder.encode_all(examples, listener)
    assert [item.input_ids for item in kept] == [encoder.encode(examples[index]).input_ids for index in (0, 2)]
    assert listener.done == 3
    assert listener.said == [
        "2 of 3 examples have more than 20 tokens and were cut",
        "1 of them were left out: their answers start beyond 20 tokens",
    ]
    with pytest.raises(DataError, match="nothing is left to train on"):
        encoder.encode_all(examples[1:2])


def test_a_first_token_alone_is_nothing_to_learn() -> None:
    """The first token of a sequence is never predicted, so it does not count."""
    assert Encoded([5, 6], [5, IGNORED]).labelled == 0
    assert Encoded([5, 6], [IGNORED, 6]).labelled == 1


def test_many_examples_are_encoded_as_each_by_itself() -> None:
    """Encoding in batches of chats and texts keeps the order and gives the same result."""
    encoder = Encoder(tokenizer_with(CHATML), max_length=60)
    examples = [
        Example(text=f"text {i}") if i % 3 else chat(*[f"turn {i} {j}" for j in range(2 + 2 * (i % 2))])
        for i in range(1100)
    ]
    assert encoder.encode_all(examples) == [encoder.encode(example) for example in examples]


def test_what_follows_the_last_answer_is_not_trained() -> None:
    """A question without an answer at the end of a chat changes nothing."""
    encoder = Encoder(tokenizer_with(CHATML), max_length=500)
    open_ended = Example(messages=(*TWO_TURNS.messages, Message("user", "Thanks")))
    assert encoder.encode(open_ended) == encoder.encode(TWO_TURNS)


def test_a_chat_without_an_answer_is_a_prompt_without_labels() -> None:
    """The prompt of such a chat is all of it, and the reference is empty; encoding it is an error."""
    encoder = Encoder(tokenizer_with(CHATML), max_length=500)
    question = Example(messages=(Message("user", "Hi?"),))
    ids, reference = encoder.prompt(question)
    assert encoder.tokenizer.decode(ids) == "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert reference == ""
    with pytest.raises(DataError, match="nothing to train on"):
        encoder.encode(question)


def test_plain_text_cannot_be_asked() -> None:
    """A text has no prompt, and the error says so."""
    with pytest.raises(DataError, match="no prompt"):
        Encoder(make_tokenizer(), max_length=500).prompt(Example(text="t"))


def test_answers_that_a_template_rewrites_later_are_skipped_and_counted() -> None:
    """With a template that moves the system message, only the last answer is labelled, and that is reported."""
    encoder = Encoder(tokenizer_with(MOVING), max_length=500)
    example = chat("Hi?", "Hello.", "Where?", "Here.", system="Be kind.")
    encoded = encoder.encode(example)
    assert labelled(encoder, encoded) == ["Here.<|end|>"]
    assert encoded.skipped == 1
    listener = Listener()
    encoder.encode_all([example], listener)
    assert listener.said == [
        "1 answers of earlier turns are not trained on: the template renders them differently later"
    ]


def masked(before: str = "", answer: str = "{{ m['content'] }}", after: str = "") -> str:
    """Make a template with the given marks."""
    return f"{before}{{% for m in messages %}}{{{{ m['role'] }}}}:{answer}<|end|>{{% endfor %}}{after}" + (
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )


QUESTION = "{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}x{% endif %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (masked("{% if false %}{% generation %}{% endgeneration %}{% endif %}"), "not mark any part"),
        (masked("{% generation %}", after="{% endgeneration %}"), "also marks text before"),
        (masked(answer=QUESTION), "not mark any part"),
        (OPENING, "ends the prompt for an answer with '<think>\\n'"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7]['content'] + 'x' }}", "refuses the chat"),
    ],
)
def test_templates_that_would_train_the_wrong_thing_are_refused(template: str, reason: str) -> None:
    """Marks around nothing or everything, prompts that no answer follows, and refused chats are errors."""
    encoder = Encoder(tokenizer_with(template), max_length=500)
    with pytest.raises(DataError) as caught:
        encoder.encode(chat("a", "b"))
    assert reason in str(caught.value)


def test_marks_around_the_whole_turn_are_narrowed_to_the_answer() -> None:
    """If the mark includes the turn's header, the header belongs to the prompt, as it does in generation."""
    template = CHATML.replace(
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}",
        "{% if m['role'] == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\n' + m['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endif %}"
        "{{ '\n' }}",
    )
    encoder = Encoder(tokenizer_with(template), max_length=500)
    assert labelled(encoder, encoder.encode(chat("a", "b"))) == ["b<|im_end|><|end|>"]


def test_errors_name_the_example() -> None:
    """Among many examples, the one that the template refuses is named."""
    encoder = Encoder(
        tokenizer_with("{{ raise_exception('no') if messages[0]['content'] == 'bad' }}" + CHATML), max_length=50
    )
    with pytest.raises(DataError) as caught:
        encoder.encode_all([chat("good", "a")] * 700 + [chat("bad", "a"), chat("good", "a")])
    assert caught.value.where == "example 701"


def test_the_template_is_saved_with_the_tokenizer(tmp_path: Path) -> None:
    """A tokenizer without a template gets the plain one, which is saved with it, and renders the same prompts later."""
    from transformers import AutoTokenizer

    encoder = Encoder(make_tokenizer(chat=False), max_length=500)
    encoder.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "Hi?"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "User:\nHi?\n\nAssistant:\n"
    assert Encoder(loaded, max_length=500).encode(TWO_TURNS) == encoder.encode(TWO_TURNS)


def test_a_template_can_come_from_a_file(tmp_path: Path) -> None:
    """A Jinja file takes the place of the tokenizer's own template, and is set on it."""
    path = tmp_path / "chat.jinja"
    path.write_text(CHATML)
    encoder = Encoder(make_tokenizer(), max_length=500, template=read_template(str(path)))
    assert encoder.tokenizer.chat_template == CHATML
    assert encoder.tokenizer.decode(encoder.encode(chat("a", "b")).input_ids).startswith("<|im_start|>user\na")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such chat"), ("{% for %}", "is not valid Jinja"), ("{% if x %}\n", "Jinja")],
)
def test_a_bad_template_file_is_refused_at_once(tmp_path: Path, content: str | None, reason: str) -> None:
    """A template that is missing or does not parse is an error, with its name, before any example is encoded."""
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_template(str(path))
    assert str(path) in str(caught.value.where)


def test_a_tokenizer_without_eos_is_refused() -> None:
    """A tokenizer without an end-of-sequence token is refused."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="end-of-sequence"):
        Encoder(tokenizer, max_length=500)


def test_a_tiny_model_stops_after_learning(model_folder: Callable[..., Path]) -> None:
    """Trained on one ChatML row whose turns end in another token than EOS, a model writes the answer and stops."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    encoder = Encoder(tokenizer_with(CHATML), max_length=100)
    model.resize_token_embeddings(len(encoder.tokenizer), mean_resizing=False)
    example = chat("Hi?", "Hello.")
    encoded = encoder.encode(example)
    batch = {"input_ids": torch.tensor([encoded.input_ids]), "labels": torch.tensor([encoded.labels])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    prompt, reference = encoder.prompt(example)
    written = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0)[
        0, len(prompt) :
    ]
    assert int(written[-1]) == encoder.tokenizer.eos_token_id
    assert encoder.tokenizer.decode(written, skip_special_tokens=True) == reference
