"""Other words for options of a run, on the command line and in Python."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from promptfed.option import Option


class Shorthands(BaseModel):
    """Other words for options of a run, on the command line and in Python."""

    hold_out_classes: Annotated[float | None, Option("task", default="0; icons and coop: 0.5", metavar="F")] = Field(
        None, ge=0, lt=1, description="share of the classes that no client trains on: the new ones"
    )
