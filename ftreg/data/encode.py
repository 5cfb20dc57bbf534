"""Encoding: from examples to token ids and labels; only answers (or whole plain texts) are labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

from ftreg.core.errors import DataError
from ftreg.core.types import Example, Message, NullProgress, Progress
from ftreg.data.template import Rendered, Template

IGNORED = -100
"""The label of a token that the loss leaves out."""

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens.

    Attributes:
        input_ids: The token ids.
        labels: The same ids where the loss counts them, ``IGNORED`` elsewhere; not shifted.
        cut: Number of tokens that ``max_length`` cut off the end.
        skipped: Number of answers of earlier turns without labels (``Rendered.skipped``).
    """

    input_ids: list[int]
    labels: list[int]
    cut: int = 0
    skipped: int = 0

    @property
    def labelled(self) -> int:
        """Number of tokens that the loss counts; the first token of a sequence is never predicted."""
        return len(self.labels[1:]) - self.labels[1:].count(IGNORED)


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    labelled: list[tuple[int, int]]
    prompt: int
    skipped: int = 0


class Encoder:
    """Turns examples into labelled token sequences for training, and into prompts for generation.

    Chats are rendered by the tokenizer's chat template and tokenized without further special tokens. All answers of the
    assistant are labelled, each with the token that ends its turn. Plain text is tokenized with the tokenizer's own
    special tokens, and all of it is labelled. Every sequence ends in EOS, and EOS is labelled, whatever the pad token
    is: if the template ends turns with another token, EOS follows that one after the last answer, so that generation
    always stops. A sequence that ``max_length`` cuts gets no EOS, because the answer does not end there.

    The prompt of an answer is, token for token, the beginning of the training sequence. If a token would span the
    boundary between prompt and answer, the two are tokenized separately.

    Args:
        tokenizer: A ``transformers`` tokenizer with an EOS token; the chat template that is used is set on it.
        max_length: Tokens that a sequence may have; longer ones are cut at the end.
        template: Jinja source of the chat template; None for the tokenizer's own, else a plain one.

    Raises:
        DataError: The tokenizer has no EOS token, or the template cannot be used.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, template: str | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError(
                "the tokenizer has no end-of-sequence token: a model trained with it would never stop",
                hint="Set eos_token in the base model's tokenizer_config.json.",
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.template = Template(tokenizer, template)

    def encode(self, example: Example) -> Encoded:
        """Encode one example; raise ``DataError`` if the template cannot render it."""
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples, one result for each; raise ``DataError`` if the template cannot render one of them."""
        return [self._label(tokens) for tokens in self._tokenize(examples)]

    def encode_each(self, examples: Sequence[Example]) -> Iterator[Encoded | DataError]:
        """Encode examples in batches; yield for each its encoding, or the error if the template cannot render it."""
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            try:
                yield from self.encode_batch(batch)
            except DataError:
                yield from map(self._encode_or_error, batch)

    def encode_all(self, examples: Sequence[Example], progress: Progress | None = None) -> list[Encoded]:
        """Encode examples for training.

        Examples in which ``max_length`` leaves no labelled token are left out, and their number is reported to
        ``progress``.

        Raises:
            DataError: The template cannot render an example, or no example has a labelled token left.
        """
        progress = progress or NullProgress()
        progress.begin("tokenize", len(examples), "examples")
        encoded: list[Encoded] = []
        for number, item in enumerate(self.encode_each(examples), start=1):
            if isinstance(item, DataError):
                item.where = f"example {number}"
                raise item
            encoded.append(item)
            if number % _BATCH == 0 or number == len(examples):
                progress.update(number)
        progress.end()
        kept = [item for item in encoded if item.labelled]
        for remark in _remarks(encoded, len(encoded) - len(kept), self.max_length):
            progress.say(remark)
        if encoded and not kept:
            raise DataError(
                f"every answer starts after the first {self.max_length} tokens, so nothing is left to train on",
                hint="Raise train.max_length, or shorten the prompts.",
            )
        return kept

    def prompt(self, example: Example) -> tuple[list[int], str]:
        """Return the token ids of the prompt for an example's last answer, and that answer.

        If a chat has no answer, all of it is the prompt and the answer is empty. The ids are not cut to ``max_length``.

        Raises:
            DataError: The example is plain text, or the template cannot render it.
        """
        if example.text is not None:
            raise DataError("plain text has no prompt", hint="Measure its loss, or use rows with prompt and response.")
        if not _upto_answer(example):
            return self._ids([self.template.render_prompt(example.messages)])[0], ""
        tokens = next(self._tokenize([example]))
        return tokens.ids[: tokens.prompt], _upto_answer(example)[-1].content

    def _encode_or_error(self, example: Example) -> Encoded | DataError:
        try:
            return self.encode(example)
        except DataError as error:
            return error

    def _label(self, tokens: _Tokens) -> Encoded:
        """Build labels, append EOS, and truncate to ``max_length``."""
        ids, eos = tokens.ids, self.tokenizer.eos_token_id
        labels = [IGNORED] * len(ids)
        for start, end in tokens.labelled:
            labels[start:end] = ids[start:end]
        if ids[-1:] != [eos]:
            ids, labels = [*ids, eos], [*labels, eos]
        cut = max(0, len(ids) - self.max_length)
        return Encoded(ids[: self.max_length], labels[: self.max_length], cut, tokens.skipped)

    def _tokenize(self, examples: Sequence[Example]) -> Iterator[_Tokens]:
        """Tokenize examples, chats and texts each in one batch, and yield them in their order."""
        texts = iter(self._ids([example.text for example in examples if example.text is not None], special=True))
        chats = [_upto_answer(example) for example in examples if example.text is None]
        if not all(chats):
            raise DataError("a chat without an assistant message has nothing to train on")
        rendered = iter(self._tokenize_chats(self.template.render(chats)) if chats else ())
        for example in examples:
            if example.text is None:
                yield next(rendered)
            else:
                ids = next(texts)
                yield _Tokens(ids, [(0, len(ids))], 0)

    def _tokenize_chats(self, chats: Sequence[Rendered]) -> Iterator[_Tokens]:
        """Tokenize chats as a whole if no token spans a cut, otherwise piece by piece.

        The cuts are where answers start and end. If the tokens of the pieces make up those of the whole, the tokens of
        each prompt are the beginning of the whole.
        """
        cuts = [[0, *(position for span in chat.spans for position in span)] for chat in chats]
        whole = self._ids([chat.text for chat in chats])
        pieces = iter(
            self._ids(
                [chat.text[start:end] for chat, at in zip(chats, cuts, strict=True) for start, end in pairwise(at)]
            )
        )
        for chat, at, ids in zip(chats, cuts, whole, strict=True):
            mine = [next(pieces) for _ in at[1:]]
            borders = list(accumulate((len(piece) for piece in mine), initial=0))
            together = list(chain.from_iterable(mine))
            if together != ids:
                # Tokenizers that add a prefix to every text (Llama 2) differ in the pieces only.
                prefixes = self._ids([chat.text[:cut] for cut in at])
                if all(ids[: len(prefix)] == prefix for prefix in prefixes):
                    together, borders = ids, [len(prefix) for prefix in prefixes]
            labelled = list(zip(borders[1::2], borders[2::2], strict=True))
            yield _Tokens(together, labelled, borders[at.index(chat.prompt, 1)], chat.skipped)

    def _ids(self, texts: Sequence[str | None], *, special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts), add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def last_answer(example: Example) -> str:
    """Return the last answer of a chat, which its prompt asks for; empty if it has none."""
    answered = _upto_answer(example)
    return answered[-1].content if answered else ""


def _upto_answer(example: Example) -> tuple[Message, ...]:
    """Return the turns up to the last answer; none if there is no answer."""
    last = max((index for index, turn in enumerate(example.messages) if turn.role == "assistant"), default=-1)
    return example.messages[: last + 1]


def _remarks(encoded: Sequence[Encoded], dropped: int, max_length: int) -> Iterator[str]:
    """Yield remarks about encoded examples that the user should see."""
    if cut := sum(item.cut > 0 for item in encoded):
        yield f"{cut} of {len(encoded)} examples have more than {max_length} tokens and were cut"
    if dropped:
        yield f"{dropped} of them were left out: their answers start beyond {max_length} tokens"
    if skipped := sum(item.skipped for item in encoded):
        yield f"{skipped} answers of earlier turns are not trained on: the template renders them differently later"
