"""The settings of suite ``lm-eval``."""

from __future__ import annotations

from pydantic import Field

from ftreg.core.recipe import Config


class HarnessConfig(Config):
    """How lm-eval runs a task; the defaults are its own."""

    num_fewshot: int | None = Field(
        None, ge=0, description="examples before each question; by default as many as the task says, mostly 0"
    )
    apply_chat_template: bool = Field(False, description="put each prompt into the model's chat template")
    fewshot_as_multiturn: bool = Field(True, description="with a chat template, make each example a turn of its own")
    system_instruction: str | None = Field(None, description="a system message, or a text before each prompt")
    seed: int = Field(1234, description="seed of numpy, of PyTorch and of the choice of examples")
    bootstrap_iters: int = Field(
        100_000, ge=0, description="samples for standard errors without a formula, such as of a perplexity; 0 for none"
    )
