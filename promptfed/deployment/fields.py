"""The types, lengths and ranges of the fields of messages. Neither side trusts the other.

Names and texts are shown on terminals and in reports, and counts are added up and averaged. A message with a field
that is not as declared here is refused before it is used.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from promptfed.printable import is_printable, printable

LONGEST_NAME, LONGEST_TEXT = 64, 1_000
MOST_CLASSES, MOST_SITES, MOST_NOTES, MOST_FIGURES = 10_000, 10_000, 20, 100
MOST_MEASURES, MOST_SUMS = 30, 100_000
"""Measures besides accuracy, and the numbers of one of them."""
MOST_EXAMPLES = 10**9
"""Examples of one site, for all classes and uses."""
LARGEST_LOSS, LONGEST_SECONDS = 1e9, 1e8


def _checked_name(name: str) -> str:
    if not is_printable(name) or not name.strip():
        raise ValueError("a name is made of printable characters")
    return name


def _escape(text: str) -> str:
    return printable(text, LONGEST_TEXT)


Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME), AfterValidator(_checked_name)]
"""The name of a site, class, domain or stage. It is shown as it is, and may name a column or a folder."""
Domain = Annotated[
    str, StringConstraints(max_length=LONGEST_NAME), AfterValidator(lambda d: _checked_name(d) if d else d)
]
"""A name, or empty if the data have no domains."""
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT), AfterValidator(_escape)]
"""A line for people. Control characters in it are escaped."""
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
"""A public Ed25519 key; empty if there is none."""
Count = Annotated[int, Field(ge=0, le=MOST_EXAMPLES)]
"""A number of examples."""
Calls = Annotated[int, Field(ge=0, le=10**15)]
"""A number of calls of a model: images and texts through its towers, queries, tokens."""
Number = Annotated[int, Field(ge=0, le=1_000_000)]
"""The number of a client or a round."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""An accuracy."""
Figure = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS, allow_inf_nan=False)]
"""A figure of an outgoing processor."""
Loss = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS, allow_inf_nan=False)]
