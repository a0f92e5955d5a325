"""Worked examples in a prompt: labelled texts as the template puts them, read back by models that read no prose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptfed.prompt_template import PromptTemplate

GAP = "\n\n"
"""What stands between examples."""
LONGEST = 1000
"""Characters of a text in an example."""
_MARK = "\x00"


@dataclass(frozen=True)
class WorkedExample:
    """A ``text`` and the class that it is shown with."""

    text: str
    name: str


def shown(form: PromptTemplate, example: WorkedExample) -> str:
    """Return an example as ``form`` puts it, with the label word in its place."""
    return _shown(form, " ".join(example.text.split())[:LONGEST], form.word(example.name))


def with_examples(form: PromptTemplate, instruction: str, examples: Sequence[WorkedExample]) -> str:
    """Return a prompt that shows ``examples`` after ``instruction``; without examples, the instruction alone."""
    parts = [part for part in (instruction, *(shown(form, example) for example in examples)) if part]
    return GAP.join(parts) + (GAP if examples else "")


def examples_in(form: PromptTemplate, prompt: str, names: Sequence[str]) -> tuple[str, list[WorkedExample]]:
    """Return the rest of ``prompt``, and the examples that it shows of the classes ``names``.

    A part between blank lines is an example if it reads as ``form`` puts a text with one of the label words.
    """
    if GAP not in prompt:
        return prompt, []
    frames = [(name, *_shown(form, _MARK, form.word(name)).split(_MARK, 1)) for name in names]
    rest, examples = [], []
    for part in prompt.split(GAP):
        for name, before, after in frames:
            if part.startswith(before) and part.endswith(after) and len(part) > len(before) + len(after):
                examples.append(WorkedExample(part[len(before) : len(part) - len(after)], name))
                break
        else:
            rest.append(part)
    return GAP.join(part for part in rest if part), examples


def _shown(form: PromptTemplate, text: str, word: str) -> str:
    if "mask" in form.template:  # of masked language models: the word's own place
        return form.example(text, mask=word).strip()
    return f"{form.example(text)} {word}".strip()
