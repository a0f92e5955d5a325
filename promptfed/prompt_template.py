"""How an example is put to a black box: the template around prompt and text, and what each class is called."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from promptfed.errors import ConfigError
from promptfed.printable import LONGEST, printable
from promptfed.template_syntax import check_template, compiled, rendered

_MARK = "\x00"
TEMPLATE = "{{ prompt }} {{ text }}\nCategory:"
WORDS_HINT = '--set "task.words={CLASS: WORD, ...}"'
"""How a user gives every class a label word."""
LISTED = 10
"""Class names that a message lists before it says how many more there are."""


class PromptTemplate(BaseModel):
    """Template and verbaliser, the same for every client.

    ``template`` is jinja2 with ``prompt``, ``text`` and, for masked language models, ``mask``: what a language model
    reads before it says a label word. ``words``: class -> label word (absent: the class name); ``descriptions``:
    class -> sentence that an embedding model compares texts with (absent: the label word). ``prompts``: hand-written
    ones, of which zero-shot takes the best. ``answer_tokens``: most tokens of a free answer; ``stop``: texts that end
    it. ``preamble``: what stands before every request, as it is, such as worked examples. ``chat``: questions are put
    as a language model's tokenizer says, in the place of ``template``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str = TEMPLATE
    words: Mapping[str, str] = Field(default_factory=dict)
    descriptions: Mapping[str, str] = Field(default_factory=dict)
    prompts: tuple[str, ...] = Field(default=("",), min_length=1)
    answer_tokens: int = Field(default=200, ge=1)
    stop: tuple[str, ...] = ()
    preamble: str = ""
    chat: bool = False

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``chat`` out where it is not used, as in files of earlier versions."""
        fields: dict[str, Any] = serialize(self)
        return fields if self.chat else {name: value for name, value in fields.items() if name != "chat"}

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, template: str) -> str:
        check_template(template)  # nothing is rendered here: a stranger's file may be what is read
        return template

    def render(self, prompt: str, text: str, mask: str = "") -> str:
        """Return the whole text to send: an empty prompt leaves no gap, and ``text`` is never read as a template."""
        return self.preamble + self.example(text, prompt, mask)

    def example(self, text: str, prompt: str = "", mask: str = "") -> str:
        """As ``render``, without the preamble."""
        return _tidy(rendered(compiled(self.template), prompt, text, mask))

    def around(self, text: str, mask: str = "") -> tuple[str, str]:
        """Return what stands before and after the prompt: where soft prompt vectors go."""
        text_around = rendered(compiled(self.template), _MARK, text.replace(_MARK, ""), mask)
        left, _, right = text_around.partition(_MARK)
        return self.preamble + _tidy(left), _tidy(right.replace(_MARK, ""))

    def word(self, name: str) -> str:
        """Return the label word of class ``name``."""
        return self.words.get(name, name.replace("_", " "))

    def description(self, name: str) -> str:
        """Return the sentence that stands for class ``name``."""
        return self.descriptions.get(name, self.word(name))

    @field_validator("words", "descriptions", mode="before")
    @classmethod
    def _have_names(cls, values: Any) -> Any:
        return named(values)

    @field_validator("prompts")
    @classmethod
    def _have_no_place(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            if "{}" in prompt or "{{" in prompt:
                raise ValueError(f"prompt '{prompt}' is sent as it is: the template says where the text goes, not {{}}")
        return prompts


def named(values: Any) -> Any:
    """``values`` with the keys that YAML made numbers of as text again.

    Raises ValueError for keys that YAML made true or false of (yes, no, on, off): nobody knows what was written.
    """
    if not isinstance(values, Mapping):
        return values
    for key in values:
        if isinstance(key, bool) or key is None:
            raise ValueError(f"YAML reads a name as {key!r}: put it in quotes, such as {{'yes': good, 'no': bad}}")
    return {str(key) if isinstance(key, int | float) else key: value for key, value in values.items()}


def check_labels(form: PromptTemplate, classes: Sequence[str]) -> None:
    """Raise ConfigError unless ``form`` tells ``classes`` apart and names no others.

    Words are equal if a reader takes them for the same: case, width and white space do not count.
    """
    for option, mapping in (("words", form.words), ("descriptions", form.descriptions)):
        for name in mapping:
            if name not in classes:
                raise ConfigError(
                    f"task option '{option}' names '{printable(name, LONGEST)}', which is no class here: "
                    f"{_nearest(name, classes)}classes are {_listed(classes)}"
                )
    for option, label_of in (("words", form.word), ("descriptions", form.description)):
        holders: dict[str, str] = {}
        for name in classes:
            if not _key(label_of(name)):
                raise ConfigError(f"class '{printable(name, LONGEST)}' has an empty text in task option '{option}'")
            holder = holders.setdefault(_key(label_of(name)), name)
            if holder != name:
                raise ConfigError(
                    f"classes '{printable(holder, LONGEST)}' and '{printable(name, LONGEST)}' are both called "
                    f"'{printable(label_of(name), LONGEST)}', so no answer tells them apart: "
                    f"give each its own (--set 'task.{option}={{...}}')"
                )


def check_each_has(option: str, given: Mapping[str, str], classes: Sequence[str]) -> None:
    """Raise ConfigError if ``given`` names some of ``classes`` and leaves others out."""
    absent = [name for name in classes if name not in given] if given else []
    if absent:
        raise ConfigError(
            f"task option '{option}' has nothing for class {_listed(absent)}: say one for each of the "
            f"{len(classes)} classes (its own name will do)"
        )


def _key(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{printable(near[0], LONGEST)}'? " if near else ""


def _listed(names: Sequence[str]) -> str:
    listing = ", ".join(f"'{printable(name, LONGEST)}'" for name in names[:LISTED])
    return listing + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _tidy(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text).strip(" \t")
