"""The page of the public names, from promptfed/__init__.py."""

from __future__ import annotations

import promptfed

GROUPS = {
    "Train and use": ("train", "compare", "load_run", "load", "Run"),
    "Options and errors": ("RunConfig", "PromptFedError"),
    "Extend": ("Method", "METHODS", "Aggregator", "Backbone", "load_plugin"),
    "The parts underneath": ("PromptState", "load_backbone", "Experiment", "Federation"),
}
"""Every public name stands in one of them."""
BARE = {"RunConfig", "Experiment"}
"""Classes whose fields have a page of their own, or are many and of no use alone."""


def api_page() -> str:
    """Return the page as Markdown with directives of autodoc."""
    listed = {name for names in GROUPS.values() for name in names}
    assert listed == set(promptfed.__all__), f"not on the page, or not public: {listed ^ set(promptfed.__all__)}"
    parts = [
        "# Python API",
        "The public names of `promptfed`. [promptfed from Python](/python.md) shows how they are used together;\n"
        "[configuration](/configuration.md) has all options of a run.",
    ]
    for title, names in GROUPS.items():
        parts += [f"## {title}", *(_directive(name) for name in names)]
    return "\n\n".join(parts) + "\n"


def _directive(name: str) -> str:
    value = getattr(promptfed, name)
    if isinstance(value, type):
        members = "   :no-members:\n" if name in BARE else ""
        kind = "exception" if issubclass(value, BaseException) else "class"
        return f"```{{eval-rst}}\n.. auto{kind}:: promptfed.{name}\n{members}```"
    kind = "function" if callable(value) and not hasattr(value, "register") else "data"
    return f"```{{eval-rst}}\n.. auto{kind}:: promptfed.{name}\n```"
