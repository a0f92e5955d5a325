"""Options of ``promptfed personalize`` and ``promptfed onboard``. No model is loaded for them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptfed.errors import ConfigError
from promptfed.option import Option

GROUP = "personalize"
ALPHAS = "0,0.1,...,1"
MOST_ALPHAS = 1001


def parse_alphas(text: str) -> tuple[float, ...]:
    """Return ``"0,0.1,...,1"`` or ``"0,0.3,1"`` as rising numbers; ``...`` continues the step of the two before it.

    Raises:
        ConfigError: The words are not numbers from 0 to 1; the message has an example.
    """
    hint = f"give numbers from 0 to 1 such as {ALPHAS} or 0,0.5,1"
    values: list[float] = []
    words = [word.strip() for word in text.split(",")]
    for index, word in enumerate(words):
        try:
            if word != "...":
                values.append(float(word))
                continue
            before, last, end = values[-2], values[-1], float(words[index + 1])
            count = round((end - last) / (last - before))
            if abs(last + count * (last - before) - end) > 1e-9 or not 0 < count <= MOST_ALPHAS:
                raise ConfigError(f"--interpolate '{text}': steps of {last - before:g} do not lead to {end:g}; {hint}")
            values += [round(last + i * (last - before), 10) for i in range(1, count)]
        except (ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"--interpolate '{text}': '{word}' makes no sense there; {hint}") from error
    if not all(0 <= alpha <= 1 for alpha in values):
        raise ConfigError(f"--interpolate '{text}': {hint}")
    return tuple(sorted(set(values)))


class FinetuneOptions(BaseModel):
    """Options of a client's training after the federation; the rest is as in the run (optimiser, batch size)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: Annotated[float | None, Option(GROUP, default="a fifth of the run's", metavar="LR")] = Field(
        None, gt=0, description="learning rate, constant"
    )
    epochs: Annotated[int, Option(GROUP, metavar="N")] = Field(
        10, ge=1, description="epochs over the client's training examples"
    )
    l2_to_global: Annotated[float, Option(GROUP, metavar="L")] = Field(
        0.0, ge=0, description="lambda of the pull to the shared prompt, (lambda / 2) ||p - p_global||^2"
    )


class PersonalizeOptions(FinetuneOptions):
    """Options of ``promptfed personalize``. None leaves the choice to the run's method."""

    method: Annotated[Literal["finetune", "none"] | None, Option(GROUP, default="what fits", metavar="WAY")] = Field(
        None, description="finetune: train the shared prompt on; none: mix what the run's method trained"
    )
    space: Annotated[
        Literal["prompt", "features"] | None, Option(GROUP, default="prompt where it can be", metavar="S")
    ] = Field(None, description="where shared and own prompt are mixed")
    alphas: Annotated[tuple[float, ...], Option(GROUP, flag=False, default=ALPHAS)] = Field(
        parse_alphas(ALPHAS), min_length=1, description="shares of the own prompt that are tried on validation examples"
    )


class OnboardOptions(FinetuneOptions):
    """Options of ``promptfed onboard``; None stands for the run's value."""

    method: Annotated[Literal["finetune", "none"], Option(GROUP, metavar="WAY")] = Field(
        "finetune", description="finetune: train the shared prompt on; none: leave it as it is"
    )
    space: Annotated[
        Literal["prompt", "features"] | None, Option(GROUP, default="prompt where it can be", metavar="S")
    ] = Field(None, description="where shared and own prompt are mixed")
    alphas: Annotated[tuple[float, ...], Option(GROUP, flag=False, default=ALPHAS)] = Field(
        parse_alphas(ALPHAS), min_length=1, description="shares of the own prompt that are tried on validation examples"
    )
    shots: Annotated[int | None, Option(GROUP, default="the run's", metavar="K")] = Field(
        None, ge=1, description="training examples of each class"
    )
    val_shots: Annotated[int | None, Option(GROUP, default="the run's", metavar="K")] = Field(
        None, ge=1, description="validation examples of each class"
    )
