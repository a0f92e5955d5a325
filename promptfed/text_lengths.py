"""Texts that a language model cannot read whole: how many there are, said before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from promptfed.errors import DataError
from promptfed.examples.base import ANSWER_CLASSES, Item
from promptfed.frozen_model import FrozenModel
from promptfed.language_models.model import LanguageModel
from promptfed.method import Method
from promptfed.printable import printable
from promptfed.types import FederatedTask


def text_length_notes(
    model: FrozenModel, task: FederatedTask, method: Callable[[], Method], *, strict: bool = False
) -> tuple[str, ...]:
    """Return a note if texts of ``task`` are cut, with their number.

    Args:
        model: Who reads them; nothing is said of one that is no language model.
        task: Whose texts.
        method: Makes the method whose insert takes tokens of the model's.
        strict: Whether to refuse such texts.

    Raises:
        ConfigError: A template leaves no room, or the tokenizer lacks a chat template.
        DataError: An answer is too long, or ``strict`` refuses a text.
    """
    if not isinstance(model, LanguageModel):
        return ()
    reserve: int = getattr(method(), "reserve", 0)
    is_free = task.base_classes == ANSWER_CLASSES
    tests = (task.base_test, task.new_test, *task.domain_tests.values())
    splits = chain(tests, (split for data in task.clients for split in (data.train, data.val, data.test)))
    items = {id(item): item for split in splits for item in split.items}
    cut = cut_items(model, items.values(), reserve, is_free=is_free)
    if not cut:
        return ()
    first, tokens = cut[0]
    what = "questions" if is_free else "texts"
    line = (
        f"{len(cut)} of {len(items)} {what} are longer than '{printable(model.name, 80)}' reads ({model.longest} tokens"
        f"{f', {reserve} of them for the prompt' if reserve else ''}): the first is {first.name}, by {tokens} tokens"
    )
    if strict:
        raise DataError(f"{line}; leave out --strict to have their ends cut")
    return (f"{line}; their ends are cut{', no answer is' if is_free else ''} (--strict refuses them)",)


def cut_items(
    model: LanguageModel, items: Iterable[Item], reserve: int, *, is_free: bool = False
) -> list[tuple[Item, int]]:
    """Return the texts that ``model`` cannot read whole, each with the number of tokens that are left out.

    Args:
        model: Who reads them.
        items: The texts.
        reserve: The tokens that a method's insert takes.
        is_free: Whether they are questions with answers in free text.

    Raises:
        ConfigError: A template leaves no room, or the tokenizer lacks a chat template.
        DataError: An answer is too long.
    """
    row = model.answers.rows.row if is_free else model.writer.row
    return [(item, cut) for item in items if (cut := row(item, "", reserve).cut)]
