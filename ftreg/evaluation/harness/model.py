"""lm-eval's view of an engine: log-likelihoods and greedy answers, tokenized as by lm-eval's own ``hf`` model.

Log-likelihoods are sums of the logits' log-softmax, so that every engine can give them, whatever runs the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS, DEFAULT_MAX_LENGTH
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ftreg.core.errors import FtregError, InputError
from ftreg.core.types import Engine, NullProgress, Progress
from ftreg.evaluation.numerics import batches, chunks, log_softmax

_UNLIMITED = 1 << 30  # tokenizers without a limit say 10^30
_ANSWERED = 32  # prompts that are answered together
_FIRST_PIECE = 32  # tokens

_HARMLESS = {"do_sample", "max_gen_toks", "min_p", "temperature", "top_k", "top_p", "until"}
"""Settings of a generation that are obeyed, or change nothing about greedy decoding."""

_Request = tuple[Any, list[int], list[int]]
"""Texts (not used), the tokens of a context, and those of its continuation."""


@dataclass(frozen=True)
class Generation:
    """How a task wants its prompts answered: greedily, up to the first of ``until``."""

    until: tuple[str, ...]
    max_new_tokens: int


def read_generation(settings: Mapping[str, Any]) -> Generation:
    """Read a task's ``generation_kwargs``; raise ``InputError`` if they ask for more than greedy decoding."""
    known = normalize_gen_kwargs(dict(settings), DEFAULT_MAX_GEN_TOKS)
    beyond = sorted(known.keys() - _HARMLESS)
    if known.get("do_sample"):
        beyond = ["do_sample", *beyond]
    if beyond:
        raise InputError(f"engines answer greedily, without {', '.join(beyond)}", hint="Choose another task.")
    return Generation(tuple(known["until"]), known["max_gen_toks"])


class EngineModel(TemplateLM):
    """A loaded version as a model of lm-eval.

    Args:
        engine: The loaded version.
        progress: Where to report progress.
    """

    def __init__(self, engine: Engine, progress: Progress | None = None) -> None:
        super().__init__()
        self.tokenizer = engine.tokenizer
        self._engine = engine
        self._progress = progress or NullProgress()
        longest = int(self.tokenizer.model_max_length)
        self.max_length = longest if longest < _UNLIMITED else DEFAULT_MAX_LENGTH

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that a text without a context follows."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, for lm-eval's cache of prompts."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenize a text; one that begins with the beginning-of-sequence token gets no second one."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, verbose=False, **special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat; without its system message if the template does not allow for one."""
        try:
            return self._render(chat_history, add_generation_prompt)
        except TemplateError:
            return self._render([turn for turn in chat_history if turn["role"] != "system"], add_generation_prompt)

    def _render(self, chat: list[dict[str, str]], prompt: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=prompt, continue_final_message=not prompt
        )
        return text

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Return the log-likelihood of each text, in windows of the model's context of which each token is in one."""
        windows: list[_Request] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[_Request], **_: Any) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would give it.

        Continuations that differ in their last token only, such as the letters of a multiple choice, are computed once.
        """
        sharing: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            self._check(continuation)
            sharing.setdefault(tuple([*context, *continuation][-(self.max_length + 1) : -1]), []).append(index)
        inputs = list(sharing)
        found = [(0.0, True)] * len(requests)
        self._progress.begin("scoring texts", len(inputs), unit="sequences")
        done = 0
        for batch in batches([len(row) for row in inputs], len(self.tokenizer)):
            rows = [inputs[position] for position in batch]
            longest = max(len(requests[index][2]) for row in rows for index in sharing[row])
            for row, logits in zip(rows, self._engine.logits([list(row) for row in rows], last=longest), strict=True):
                for index in sharing[row]:
                    continuation = requests[index][2]
                    found[index] = _score(logits[-len(continuation) :], continuation)
            done += len(batch)
            self._progress.update(done)
        self._progress.end()
        return found

    def _check(self, continuation: Sequence[int]) -> None:
        """Raise ``FtregError`` if a continuation cannot be scored."""
        if not 0 < len(continuation) <= self.max_length:
            raise FtregError(
                f"a text to score has {len(continuation)} tokens; it needs at least one, and at most the "
                f"{self.max_length} of the model's context"
            )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Answer each prompt greedily, up to the end-of-sequence token or the first of its stop texts."""
        alike: dict[Generation, list[int]] = {}
        for index, request in enumerate(requests):
            alike.setdefault(read_generation(request.args[1]), []).append(index)
        answers = [""] * len(requests)
        self._progress.begin("answering prompts", len(requests), unit="prompts")
        done = 0
        for generation, indexes in alike.items():
            prompts = [self._prompt(requests[index].args[0], generation) for index in indexes]
            for batch in batches([len(prompt) for prompt in prompts], 1, largest=_ANSWERED):
                written = self._answer([prompts[position] for position in batch], generation)
                for position, answer in zip(batch, written, strict=True):
                    answers[indexes[position]] = answer
                done += len(batch)
                self._progress.update(done)
        self._progress.end()
        return answers

    def _prompt(self, context: str, generation: Generation) -> list[int]:
        """Tokenize a prompt; one that leaves no room for its answer loses its beginning."""
        room = self.max_length - generation.max_new_tokens
        if room < 1:
            raise InputError(
                f"answers of {generation.max_new_tokens} tokens leave no room for a prompt in a context of "
                f"{self.max_length} tokens",
                hint="Set max_gen_toks in the task's generation_kwargs.",
            )
        has_bos = has_bos_prefix(context, self.tokenizer.bos_token)
        return self.tok_encode(context, add_special_tokens=False if has_bos else None)[-room:]

    def _answer(self, prompts: Sequence[list[int]], generation: Generation) -> list[str]:
        """Answer prompts of which all have room for the longest answer.

        Engines do not know of stop texts, so answers are generated in pieces, each as long as all before it.
        """
        stops = [*generation.until, self.tokenizer.decode(self.eot_token_id)]
        answers: list[list[int]] = [[] for _ in prompts]
        unfinished = list(range(len(prompts)))
        length = 0
        while unfinished and length < generation.max_new_tokens:
            piece = min(max(length, _FIRST_PIECE), generation.max_new_tokens - length)
            continued = [prompts[index] + answers[index] for index in unfinished]
            rows = self._engine.generate(continued, max_new_tokens=piece)
            for index, row in zip(unfinished, rows, strict=True):
                answers[index] += row
            full = [index for index, row in zip(unfinished, rows, strict=True) if len(row) == piece]
            unfinished = [index for index in full if not self._stopped(answers[index], stops)]
            length += piece
        return [self._text(answer, stops) for answer in answers]

    def _stopped(self, answer: Sequence[int], stops: Sequence[str]) -> bool:
        """Return True if an answer contains one of the texts that end it."""
        text = self.tokenizer.decode(answer)
        return any(stop in text for stop in stops if stop)

    def _text(self, answer: Sequence[int], stops: Sequence[str]) -> str:
        """Return what of an answer is before the texts that end it, which may be special tokens."""
        added = self.tokenizer.added_tokens_decoder
        special = {token for token, about in added.items() if about.special and about.content in stops}
        before = list(takewhile(lambda token: token not in special, answer))
        text: str = postprocess_generated_text(
            self.tokenizer.decode(before, skip_special_tokens=True), stop=list(stops), think_end_token=None
        )
        return text


def _score(logits: np.ndarray, tokens: Sequence[int]) -> tuple[float, bool]:
    """Return the log-probability of ``tokens``, and whether each is ranked first, given logits of the same length."""
    total, greedy = 0.0, True
    expected = np.asarray(tokens)
    for part in chunks(len(expected), logits.shape[-1]):
        scores = log_softmax(logits[part])
        total += float(scores[np.arange(len(scores)), expected[part]].sum())
        greedy &= bool((scores.argmax(axis=-1) == expected[part]).all())
    return total, greedy
