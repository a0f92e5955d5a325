"""Templates of examples: a small part of jinja2 that names, cuts and chooses, and can do nothing else.

A template comes with a bundle, so it may be a stranger's. It has no loops, no calls and no arithmetic: what it costs is
bounded by its length. It is checked without being rendered, and rendered in jinja2's sandbox without constant folding.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from promptfed.errors import ConfigError
from promptfed.printable import printable

FIELDS = ("prompt", "text", "mask")
"""What a template may name."""
LONGEST_TEMPLATE = 20_000
"""Characters of a template."""
MOST_ADDED = 100_000
"""Characters that a template may add to the prompt and the text."""
FILTERS = frozenset({"trim", "lower", "upper", "capitalize", "title", "truncate", "replace", "default", "d", "length"})
ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If, nodes.CondExpr, nodes.Compare,
    nodes.Operand, nodes.Test, nodes.And, nodes.Or, nodes.Not, nodes.Filter, nodes.Concat, nodes.Getitem, nodes.Slice,
    nodes.Keyword, nodes.Neg,
)  # fmt: skip
"""Kinds of syntax that a template may hold."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, whose ``replace`` is bounded and whose constants are not computed while a template is read."""

    def __init__(self) -> None:
        super().__init__(keep_trailing_newline=True, optimized=False)
        self.filters["replace"] = _replace


def _replace(text: object, old: str, new: str) -> str:
    string = str(text)
    if string.count(old) * len(new) > MOST_ADDED:
        raise ConfigError(
            f"the template replaces so much that more than {MOST_ADDED:,} characters come out: shorten it"
        )
    return string.replace(old, new)


ENVIRONMENT = _Environment()


def check_template(template: str) -> None:
    """Check ``template`` without rendering it. Raises ValueError with what it may not hold."""
    text = printable(template, 200)
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"the template has {len(template):,} characters; at most {LONGEST_TEMPLATE:,} are allowed")
    try:
        tree = ENVIRONMENT.parse(template)
        _check_syntax(tree, text)
        counts = {name: _counts(tree.body, name) for name in ("prompt", "text")}
    except RecursionError as error:
        raise ValueError(f"template '{text}' is nested too deep: write it plainly") from error
    except TemplateError as error:
        raise ValueError(f"template '{text}' is not jinja2 that renders: {error}") from error
    for name, count in counts.items():
        if count != {1}:
            raise ValueError(f"template '{text}' must hold {{{{ {name} }}}} once")


@lru_cache(maxsize=256)
def compiled(template: str) -> Any:
    """Return ``template`` as jinja2 makes it. Raises ValueError as ``check_template`` does."""
    check_template(template)
    return ENVIRONMENT.from_string(template)


def rendered(template: Any, prompt: str, text: str, mask: str) -> str:
    """Return the text of an example by ``template`` (of ``compiled``).

    Raises:
        ConfigError: It fails or is too long.
    """
    try:
        result = str(template.render(prompt=prompt, text=text, mask=mask))
    except ConfigError:
        raise
    except Exception as error:  # a filter's argument may be of a wrong kind
        raise ConfigError(f"the template does not render: {printable(error, 200)}; correct task.template") from error
    if len(result) > len(prompt) + len(text) + MOST_ADDED:
        raise ConfigError(
            f"the template makes {len(result):,} characters of an example: at most {MOST_ADDED:,} are added"
        )
    return result


def _check_syntax(tree: nodes.Template, shown: str) -> None:
    assigned = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    for name in sorted(
        {node.name for node in tree.find_all(nodes.Name)} - assigned - set(FIELDS) - set(ENVIRONMENT.globals)
    ):
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(
            f"template '{shown}' names '{printable(name, 60)}', which is none of its fields: {hint}"
            f"they are {', '.join(FIELDS)}"
        )
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, ALLOWED) or (isinstance(node, nodes.Name) and node.name not in FIELDS):
            raise ValueError(
                f"template '{shown}' is not jinja2 that renders here: it holds {type(node).__name__.lower()}, and only "
                "names, constants, slices, conditions and filters are allowed (no loops, calls, attributes, arithmetic)"
            )
        if isinstance(node, nodes.Filter):
            if node.name not in FILTERS:
                raise ValueError(
                    f"template '{shown}' is not jinja2 that renders here: filter '{printable(node.name, 60)}' is none "
                    f"of {', '.join(sorted(FILTERS))}"
                )
            values = [*node.args, *(keyword.value for keyword in node.kwargs)]
            if not all(isinstance(value, nodes.Const) for value in values) or node.dyn_args or node.dyn_kwargs:
                raise ValueError(f"template '{shown}': a filter takes constants only")


def _counts(body: Sequence[nodes.Node], name: str) -> set[int]:
    """How often ``name`` is shown, on each of the ways through ``body``: at most 2 is counted."""
    counts = {0}
    for node in body:
        counts = {min(2, left + right) for left in counts for right in _shown(node, name)}
    return counts


def _shown(node: nodes.Node, name: str) -> set[int]:
    if isinstance(node, nodes.Name):
        return {int(node.name == name)}
    if isinstance(node, nodes.Output | nodes.Concat):
        return _counts(node.nodes, name)
    if isinstance(node, nodes.If):
        counts = _counts(node.body, name)
        for branch in node.elif_:
            counts |= _counts(branch.body, name)
        return _without_empty(node.test, name, counts | _counts(node.else_, name), bool(node.elif_ or node.else_))
    if isinstance(node, nodes.CondExpr):
        alternative = {0} if node.expr2 is None else _shown(node.expr2, name)
        return _without_empty(node.test, name, _shown(node.expr1, name) | alternative, node.expr2 is not None)
    if isinstance(node, nodes.Filter) and node.name == "length":
        return {0}
    if isinstance(node, nodes.Filter | nodes.Getitem) and node.node is not None:
        return _shown(node.node, name)
    return {0}


def _without_empty(test: nodes.Node, name: str, ways: set[int], has_other: bool) -> set[int]:
    """``{% if prompt %}{{ prompt }}{% endif %}`` shows a prompt once: without one there is nothing to show."""
    if not has_other and isinstance(test, nodes.Name) and test.name == name:
        return ways - {0}
    return ways
