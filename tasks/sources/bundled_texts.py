"""``texts:NAME``: the small labelled texts that come with promptfed, for trying things."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from promptfed.errors import unknown_name
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks.sources import tsv
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns

FOLDER = Path(__file__).parent.parent / "texts"
NAMES = ("reviews", "questions", "requests")


def source(name: str, columns: Columns) -> Source:
    """Return the bundled texts ``name``. Their domains are the thing reviewed or the recipient.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in NAMES:
        raise unknown_name("bundled texts", name, NAMES)
    return tsv.source(str(FOLDER / f"{name}.tsv"), replace(columns, domain=columns.domain or "domain"))


FORMS = {
    "reviews": PromptTemplate(
        template="{{ prompt }} {{ text }} It was",
        words={"positive": "great", "negative": "terrible"},
        descriptions={"positive": "The writer is pleased.", "negative": "The writer is disappointed."},
        prompts=("", "Is this review positive or negative?", "A review by a customer:", "What does the writer feel?"),
    ),
    "questions": PromptTemplate(
        template="{{ prompt }} Question: {{ text }}\nKind of answer:",
        descriptions={
            "person": "The name of a person.",
            "place": "The name of a place.",
            "number": "A number, a date or an amount.",
            "reason": "The reason or cause of something.",
            "definition": "What something means, a definition.",
        },
        prompts=("", "What kind of answer does this question ask for?", "The answer would be:", "Question:"),
    ),
    "requests": PromptTemplate(
        template="{{ prompt }} Message: {{ text }}\nThe customer wants:",
        words={"cancel": "cancellation", "account access": "access", "product advice": "advice"},
        descriptions={
            "cancel": "The customer wants to cancel.",
            "refund": "The customer wants money back.",
            "delivery": "The customer asks where something is that should have arrived.",
            "account access": "The customer cannot get into an account.",
            "product advice": "The customer asks which product to choose.",
            "complaint": "The customer complains about bad service.",
        },
        prompts=("", "What does this customer want?", "A message to customer service:", "Sort this message:"),
    ),
}
"""The template of each of them."""
