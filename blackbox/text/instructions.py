"""Hand-written instructions for almost any task; methods that choose among prompts add them to the task's own."""

from __future__ import annotations

from collections.abc import Sequence

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.examples.base import ANSWER_CLASSES

SORTING = (
    "Read the text and decide which category fits best.",
    "Think about what the writer wants to say.",
    "What is this about?",
    "Pay attention to tone and intention.",
    "In one sentence:",
    "It comes down to this:",
    "A typical example:",
    "The point is:",
)
"""Some instruct, some lead up to a text or to a label's description: oracles differ in where they put a prompt."""
REASONING = (
    "Let's work this out one step at a time.",
    "First write down what is known, then what is asked, then calculate.",
    "Break the problem into smaller parts and solve them in order.",
    "Write every calculation as an equation.",
    "Answer with a short calculation and the final number.",
    "Be careful with the numbers and check the result.",
    "Think first, then say: The answer is",
    "You are good at arithmetic. Solve the problem.",
)
VIEWS = (
    "this is a {}.",
    "a picture with a {} in it.",
    "a simple drawing of a {}.",
    "a blurred picture of a {}.",
    "a dark picture of a {}.",
    "a {} seen from close by.",
    "a large {} in the middle.",
    "one small {}.",
)
"""Of images: the class stands at {}."""
PHRASINGS = (
    "In other words:",
    "Somebody asks:",
    "Consider this:",
    "Here it is once more:",
)
"""Ways to lead up to the same example, for votes over wordings."""


def bundled(oracle: Oracle, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the instructions for these classes: free answers are reasoned out, images described, texts sorted."""
    if "pixel prompts" in oracle.abilities:
        return VIEWS
    return REASONING if tuple(classes) == ANSWER_CLASSES else SORTING


def phrasings(oracle: Oracle) -> tuple[str, ...]:
    """Return other ways to ask about the same example."""
    return VIEWS if "pixel prompts" in oracle.abilities else PHRASINGS
