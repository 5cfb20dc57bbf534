"""Chat templates: from the turns of a chat to text, and to the spans of it that are labelled.

A span starts where the prompt for generation ends, so that training and generation see the same prompt, and ends with
the marker that ends the turn. Templates with ``{% generation %}`` markers mark the assistant's text themselves; for
others it is found by rendering the chat up to each answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftreg.core.errors import DataError
from ftreg.core.text import read_text
from ftreg.core.types import Message

PLAIN = (
    "{% for message in messages %}{{ '' if loop.first else '\\n\\n' }}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{% endfor %}"
    "{{ '\\n\\nAssistant:\\n' if add_generation_prompt else '' }}"
)
"""The template for models without one: roles in words, answers ended by the end-of-sequence token."""

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Rendered:
    """A chat as text.

    Attributes:
        text: The whole chat, up to the end of its last answer.
        spans: Start and end, in characters, of each labelled span, in order.
        prompt: Where the prompt of the last answer ends.
        skipped: Number of answers of earlier turns without a span, because the template renders them differently once
            the chat goes on.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    prompt: int
    skipped: int = 0


class Template:
    """A tokenizer's chat template.

    Args:
        tokenizer: A ``transformers`` tokenizer; the template that is used is set on it, so that saving keeps it.
        source: Jinja source of the template; None for the tokenizer's own, else a plain one.

    Raises:
        DataError: The template is not valid Jinja.
    """

    def __init__(self, tokenizer: Any, source: str | None = None) -> None:
        self._tokenizer = tokenizer
        if source is not None:
            tokenizer.chat_template = source
        elif not tokenizer.chat_template:
            tokenizer.chat_template = _plain_for(tokenizer)
        self.source = _source(tokenizer)
        self.marked = bool(_MARKER.search(self.source))
        self._special = tuple(sorted(special_tokens(tokenizer), key=len, reverse=True))

    def render_prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt for the answer to ``messages``."""
        return self._texts([_chat(messages)], prompt=True)[0]

    def render(self, chats: Sequence[Sequence[Message]]) -> list[Rendered]:
        """Render chats, each of which ends with an answer.

        Raises:
            DataError: The template refuses a chat, marks no answer, marks everything, or renders the last answer after
                a text that differs from its prompt.
        """
        turns = [_chat(messages) for messages in chats]
        answers = [[index for index, turn in enumerate(chat) if turn["role"] == "assistant"] for chat in turns]
        if self.marked:
            texts, marks = self._render(turns, marks=True)
            prompts = iter(self._texts([chat[:-1] for chat in turns], prompt=True))
            return [
                self._from_marks(chat, text, marked, next(prompts))
                for chat, text, marked in zip(turns, texts, marks, strict=True)
            ]
        texts = self._texts(turns)
        pairs = list(zip(turns, answers, strict=True))
        prompts = iter(self._texts([chat[:index] for chat, found in pairs for index in found], prompt=True))
        closings = iter(self._texts([chat[: index + 1] for chat, found in pairs for index in found[:-1]]))
        return [
            self._from_prefixes(
                text,
                [chat[index]["content"] for index in found],
                [next(prompts) for _ in found],
                [next(closings) for _ in found[:-1]],
            )
            for (chat, found), text in zip(pairs, texts, strict=True)
        ]

    def _from_prefixes(
        self, text: str, contents: Sequence[str], prompts: Sequence[str], closings: Sequence[str]
    ) -> Rendered:
        """Find the answers of a chat by rendering it up to each of them.

        ``closings`` are the texts up to the end of each answer but the last. If one is not a beginning of the whole,
        the answer may still follow its prompt, as in templates that drop the reasoning of earlier turns.
        """
        self._check_prompt(text, prompts[-1])
        last = (len(prompts[-1]), self._turn_end(text, len(prompts[-1])))
        stop = next((token for token in self._special if text.endswith(token, *last)), "")
        spans = []
        for content, prompt, closing in zip(contents, prompts, closings, strict=False):
            if not text.startswith(prompt):
                continue
            start, content = len(prompt), content.strip()
            if text.startswith(closing):
                spans.append((start, self._turn_end(closing, start)))
            elif text.startswith(content + stop, start):
                spans.append((start, start + len(content + stop)))
        return Rendered(text[: last[1]], (*spans, last), last[0], skipped=len(closings) - len(spans))

    def _from_marks(self, chat: Chat, text: str, marks: Sequence[tuple[int, int]], prompt: str) -> Rendered:
        """Find the answers of a chat that the template marks; the marker that ends a turn is added to its mark."""
        self._check_prompt(text, prompt)
        marks = [(start, end) for start, end in marks if end > start]
        earlier = [mark for mark in marks if mark[1] <= len(prompt)]
        own = marks[len(earlier) :]
        if not own:
            raise DataError(
                "the chat template does not mark any part of the answer as the assistant's",
                hint="Put {% generation %} and {% endgeneration %} around the assistant's content, or leave them out.",
            )
        if own[0][0] < len(prompt) and (len(chat) == 1 or own[0][0] < len(self._texts([chat[:-1]])[0])):
            raise DataError(
                "the chat template also marks text before the answer as the assistant's",
                hint="Put {% generation %} and {% endgeneration %} around the assistant's content only.",
            )
        end = own[-1][1]
        stop = "" if self._ends_special(text[:end]) else self._special_at(text, end)
        spans = [*earlier, (len(prompt), own[0][1]), *own[1:]]
        spans = [(start, end + len(stop) if text.startswith(stop, end) else end) for start, end in spans]
        return Rendered(text[: spans[-1][1]], tuple(spans), len(prompt))

    def _check_prompt(self, text: str, prompt: str) -> None:
        """Raise ``DataError`` if the chat does not begin with the prompt for its last answer."""
        if text.startswith(prompt) and len(text) > len(prompt):
            return
        same = next(
            (i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), min(len(text), len(prompt))
        )
        raise DataError(
            f"the chat template ends the prompt for an answer with {prompt[same:][-60:]!r}, but renders "
            f"{text[same:][:60]!r} there in a chat with that answer: the model would be trained on a different prompt "
            "from the one that it gets later",
            hint="Give a template that renders both alike: data.template=my_template.jinja",
        )

    def _turn_end(self, text: str, start: int) -> int:
        """Return the end of the answer that starts at ``start`` and goes to the end of ``text``.

        What follows the special token that ends the turn, such as a line break, is not part of the answer.
        """
        stripped = text.rstrip()
        return len(stripped) if len(stripped) > start and self._ends_special(stripped) else len(text)

    def _ends_special(self, text: str) -> bool:
        return text.endswith(self._special)

    def _special_at(self, text: str, index: int) -> str:
        return next((token for token in self._special if text.startswith(token, index)), "")

    def _texts(self, chats: Sequence[Chat], *, prompt: bool = False) -> list[str]:
        return self._render(chats, prompt=prompt)[0]

    def _render(
        self, chats: Sequence[Chat], *, prompt: bool = False, marks: bool = False
    ) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Render chats; if ``marks``, with the spans that the template marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, found = render_jinja_template(
                conversations=list(chats),
                chat_template=self.source,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks,
                **self._tokenizer.special_tokens_map,
            )
        except Exception as error:  # a template can raise anything
            raise DataError(f"the chat template refuses the chat: {error}") from error
        return texts, found


def _chat(messages: Sequence[Message]) -> Chat:
    return [{"role": message.role, "content": message.content} for message in messages]


def read_template(choice: str) -> str | None:
    """Read the chat template that ``data.template`` names: its Jinja source, or None for ``auto``.

    Raises:
        DataError: The file cannot be read, or is not valid Jinja.
    """
    if choice == "auto":
        return None
    path = Path(choice).expanduser()
    if not path.is_file():
        hint = "data.template is 'auto' or the path of a Jinja file."
        raise DataError("no such chat template", where=choice, hint=hint)
    source = read_text(path, DataError)
    _check_syntax(source, choice)
    return source


def _check_syntax(source: str, where: str) -> None:
    """Raise ``DataError`` if ``source`` is not valid Jinja."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template(conversations=[], chat_template=source)
    except TemplateSyntaxError as error:
        raise DataError(f"is not valid Jinja: {error.message}", where=f"{where}:{error.lineno}") from None


def _source(tokenizer: Any) -> str:
    """Return the template that the tokenizer uses, after checking its syntax."""
    try:
        source: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise DataError(f"the tokenizer's chat template cannot be used: {error}") from None
    _check_syntax(source, "the chat template")
    return source


def _plain_for(tokenizer: Any) -> str:
    """Return the plain template, beginning with BOS if the tokenizer begins texts with it."""
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return "{{ bos_token }}" + PLAIN if begins else PLAIN


def special_tokens(tokenizer: Any) -> set[str]:
    """Return the texts that ``tokenizer`` reads as special tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)
