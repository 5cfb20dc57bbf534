"""The built-in row formats."""

from __future__ import annotations

from ftreg.core.hookspecs import hookimpl
from ftreg.core.specs import FormatSpec


@hookimpl
def ftreg_formats() -> list[FormatSpec]:
    """The formats that most public data sets come in."""
    return [
        FormatSpec(
            name="prompt-response",
            summary="A prompt and its response (or completion).",
            impl="ftreg.plugins.formats.prompt_response:PromptResponse",
            columns=("prompt", "response", "completion", "system"),
        ),
        FormatSpec(
            name="instruction",
            summary="An instruction, an input that may be empty, and the output.",
            impl="ftreg.plugins.formats.instruction:Instruction",
            columns=("instruction", "input", "output", "system"),
        ),
        FormatSpec(
            name="messages",
            summary="A chat: messages with role and content, or conversations with from and value.",
            impl="ftreg.plugins.formats.messages:Messages",
            columns=("messages", "conversations"),
        ),
        FormatSpec(
            name="text",
            summary="Plain text; the loss is computed on all of it.",
            impl="ftreg.plugins.formats.text:Text",
            columns=("text",),
        ),
    ]
