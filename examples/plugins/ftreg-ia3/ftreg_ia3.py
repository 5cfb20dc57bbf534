"""IA3: learns a scale for each key, value and feed-forward feature (Liu et al. 2022, https://arxiv.org/abs/2205.05638)."""

from __future__ import annotations

from pydantic import Field

from ftreg.plugin import (
    GRADIENT_CHECKPOINTING,
    MERGEABLE,
    OBJECTIVES,
    Artifact,
    Config,
    MethodSpec,
    Requirement,
    TrainJob,
    hookimpl,
)


class Ia3Config(Config):
    """The settings of IA3; by default PEFT's choice for the model's architecture."""

    target_modules: list[str] | None = Field(None, description="names of the linear layers to scale")
    feedforward_modules: list[str] | None = Field(None, description="those of them whose input is scaled")


@hookimpl
def ftreg_methods() -> list[MethodSpec]:
    """Contribute the method; peft and torch are imported when it is used."""
    return [
        MethodSpec(
            name="ia3",
            summary="Learnt scales of keys, values and feed-forward features: fewer weights than LoRA.",
            impl="ftreg_ia3:train",
            config="ftreg_ia3:Ia3Config",
            produces="adapter",
            requires=(Requirement("peft", "ftreg[train]"),),
            trains=frozenset({GRADIENT_CHECKPOINTING, OBJECTIVES}),
            capabilities=frozenset({MERGEABLE}),
        )
    ]


def train(job: TrainJob) -> Artifact:
    """Train the scales, and write them as a PEFT adapter."""
    from peft import IA3Config, TaskType, get_peft_model

    from ftreg.training import fit, load_model, save_adapter

    scales = IA3Config(task_type=TaskType.CAUSAL_LM, **job.config.model_dump())
    model = get_peft_model(load_model(job), scales)
    measured = fit(job, model)
    return save_adapter(job, model, measured)
