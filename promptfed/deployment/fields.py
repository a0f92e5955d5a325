"""What a field of a message may be, in one place: types, lengths, ranges. Neither side believes the other.

Names and texts are shown on terminals and in reports, counts are added up and averaged: whatever is not as declared
here is refused with the message that holds it, before it is used.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from promptfed.printable import is_printable, printable

LONGEST_NAME, LONGEST_TEXT = 64, 1_000
MOST_CLASSES, MOST_SITES, MOST_NOTES, MOST_FIGURES = 10_000, 10_000, 20, 100
MOST_MEASURES, MOST_SUMS = 30, 100_000
"""Besides accuracy; numbers of one of them."""
MOST_EXAMPLES = 10**9
"""Of one site, all classes and uses together."""
LARGEST_LOSS, LONGEST_SECONDS = 1e9, 1e8


def _shown(name: str) -> str:
    if not is_printable(name) or not name.strip():
        raise ValueError("a name is made of printable characters")
    return name


def _escaped(text: str) -> str:
    return printable(text, LONGEST_TEXT)


Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME), AfterValidator(_shown)]
"""Of a site, a class, a domain, a stage: it is shown as it is, and may become the name of a column or a folder."""
Domain = Annotated[str, StringConstraints(max_length=LONGEST_NAME), AfterValidator(lambda d: _shown(d) if d else d)]
"""A name, or empty where the data knows no domains."""
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT), AfterValidator(_escaped)]
"""A line for people: its control characters are escaped when it arrives."""
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, le=MOST_EXAMPLES)]
"""Of examples."""
Calls = Annotated[int, Field(ge=0, le=10**15)]
"""Of a model: images and texts through its towers, questions and tokens."""
Number = Annotated[int, Field(ge=0, le=1_000_000)]
"""Of a client or a round."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""An accuracy."""
Figure = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS, allow_inf_nan=False)]
"""What an outgoing processor measured."""
Loss = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS, allow_inf_nan=False)]
