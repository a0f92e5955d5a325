"""How an example is put to a black box: the template around prompt and text, and what each class is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, field_validator

_ENVIRONMENT = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
_MARK = "\x00"
TEMPLATE = "{{ prompt }} {{ text }}\nCategory:"


class Form(BaseModel):
    """Template and verbaliser, the same for every client.

    ``template`` is jinja2 with ``prompt``, ``text`` and, for masked language models, ``mask``: what a language model
    reads before it says a label word. ``words``: class -> label word (absent: the class name); ``descriptions``:
    class -> sentence that an embedding model compares texts with (absent: the label word). ``prompts``: hand-written
    ones, of which zero-shot takes the best. ``answer_tokens``: most tokens of a free answer; ``stop``: texts that end
    it. ``preamble``: what stands before every request, as it is, such as worked examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str = TEMPLATE
    words: Mapping[str, str] = Field(default_factory=dict)
    descriptions: Mapping[str, str] = Field(default_factory=dict)
    prompts: tuple[str, ...] = Field(default=("",), min_length=1)
    answer_tokens: int = Field(default=200, ge=1)
    stop: tuple[str, ...] = ()
    preamble: str = ""

    @field_validator("template")
    @classmethod
    def _renders(cls, template: str) -> str:
        try:
            shown = _ENVIRONMENT.from_string(template).render(prompt="PROMPT", text="TEXT", mask="MASK")
        except Exception as error:  # a template may divide by zero, too
            raise ValueError(f"template '{template}' is not jinja2 that renders: {error}") from error
        for name in ("prompt", "text"):
            if shown.count(name.upper()) != 1:
                raise ValueError(f"template '{template}' must hold {{{{ {name} }}}} once")
        return template

    @cached_property
    def _compiled(self):  # type: ignore[no-untyped-def] # jinja2.Template
        return _ENVIRONMENT.from_string(self.template)

    def render(self, prompt: str, text: str, mask: str = "") -> str:
        """The whole text that is sent: an empty prompt leaves no gap, and ``text`` is never read as a template."""
        return self.preamble + self.example(text, prompt, mask)

    def example(self, text: str, prompt: str = "", mask: str = "") -> str:
        """As ``render``, without the preamble."""
        return _tidy(self._compiled.render(prompt=prompt, text=text, mask=mask))

    def around(self, text: str, mask: str = "") -> tuple[str, str]:
        """What stands before and after the prompt: where soft prompt vectors go."""
        before, after = self._compiled.render(prompt=_MARK, text=text.replace(_MARK, ""), mask=mask).split(_MARK)
        return self.preamble + _tidy(before), _tidy(after)

    def word(self, name: str) -> str:
        """The label word of class ``name``."""
        return self.words.get(name, name.replace("_", " "))

    def description(self, name: str) -> str:
        """The sentence that stands for class ``name``."""
        return self.descriptions.get(name, self.word(name))


def _tidy(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text).strip(" \t")
