"""Make the content of ``completions.json`` from the commands, the registries and the models of the options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from promptfed.commands.flags import choices_of, shown_default
from promptfed.commands.help_page import first_sentence
from promptfed.commands.parameters import Parameter, parameters_of

Table = dict[str, Any]
OWN = "promptfed"
"""Where a name comes from that promptfed brings itself."""
SPECIAL = {
    "--set": "settings",
    "--resume": "runs",
    "--methods": "names:methods",
    "--aggregators": "names:aggregators",
    "--aggregator": "names:aggregators",
    "--partition": "names:partitions",
    "--device": "names:devices",
}
"""Flag -> what completes its value, where its definition does not say so."""
ARGUMENTS = {"RUN": "runs", "RUN...": "runs", "RUNS...": "runs", "KIND": "names:kinds", "NAME": "named"}
"""Metavar of an argument -> what completes it."""
FILES = ("DIR", "FILE", "PATH", "BUNDLE", "CKPT")


def completion_table(command: Any) -> Table:
    """Return what the shell completes: "commands", "names" and "settings".

    Args:
        command: The command line as a whole.
    """
    return {"commands": _commands(command, ""), "names": _names(), "settings": _settings()}


def as_text(table: Mapping[str, Any]) -> str:
    """Return ``table`` as JSON with a line for each entry, so that two changes seldom meet in one line."""
    parts = []
    for title, entries in table.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entries[name])}" for name in sorted(entries))
        parts.append(f" {json.dumps(title)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _commands(command: Any, path: str) -> Table:
    """Return the words that lead to a command -> its flags, arguments and subcommands; nested ones included."""
    parameters = parameters_of(command)
    nested = getattr(command, "commands", {})
    flags = {flag: [_values(each), each.text, _marks(each)] for each in parameters for flag in each.flags}
    entry = {
        "flags": {**flags, "--help": ["", "Show this message and exit.", ""]},
        "arguments": [_values(each) + ("*" if each.is_many else "") for each in parameters if not each.flags],
        "commands": {name: first_sentence(each.help or "") for name, each in sorted(nested.items()) if not each.hidden},
    }
    table = {path: {name: value for name, value in entry.items() if value}}
    for name, each in nested.items():
        table |= _commands(each, f"{path} {name}".strip())
    return table


def _marks(parameter: Parameter) -> str:
    """Return letters: v for a flag with a value, m for several, h for one that only ``--help-all`` shows, c: commas."""
    marks = {
        "v": parameter.metavar,
        "m": parameter.is_many,
        "h": parameter.is_hidden,
        "c": "," in parameter.metavar or parameter.name in ("methods", "aggregators"),
    }
    return "".join(letter for letter, is_so in marks.items() if is_so)


def _values(parameter: Parameter) -> str:
    """Return what completes a value: "files", "runs", "settings", "names:KIND", "one:A|B", or nothing."""
    if special := (SPECIAL.get(parameter.flags[0]) if parameter.flags else ARGUMENTS.get(parameter.metavar)):
        return special
    if kind := getattr(parameter.values, "kind", ""):
        return f"names:{kind}"
    if choices := getattr(parameter.values, "choices", ()):
        return f"one:{'|'.join(choices)}"
    return "files" if parameter.metavar in FILES else ""


def _names() -> dict[str, list[str]]:
    """Return kind -> the names that promptfed brings; of ``local:MODEL`` that is ``local:``."""
    from promptfed.commands.listing import KINDS, known
    from promptfed.option import GROUPS
    from promptfed.tasks import TASKS
    from promptfed.tasks.partitioning import PARTITIONS

    names = {
        kind: sorted({_stem(name) for name, facts in known(kind).items() if facts.get("origin", OWN) == OWN})
        for kind in KINDS
        if kind not in ("options", "runs")
    }
    of_tasks = [TASKS[name].partitions for name in TASKS if TASKS.origin(name) == OWN]
    partitions = sorted({_stem(name) for some in (PARTITIONS, *of_tasks) for name in some})
    return {
        **names, "partitions": partitions, "devices": ["auto", "cpu", "cuda"], "kinds": list(KINDS),
        "options": list(GROUPS),
    }  # fmt: skip


def _stem(name: str) -> str:
    head, colon, rest = name.partition(":")
    return f"{head}:" if (colon and rest.partition(":")[0].isupper()) or "PATH" in rest else name


def _settings() -> Table:
    """Return section -> the options that ``--set`` takes there, with the values that they may have.

    The section of plain options is empty; ``method.fedprox`` has those of a method.
    """
    from promptfed.attacks.base import ATTACKS
    from promptfed.commands.listing import known
    from promptfed.commands.option_rows import registries
    from promptfed.config import RunConfig
    from promptfed.oracle_options import OracleOptions
    from promptfed.privacy_options import PrivacyOptions

    plain = {name: _examples(field) for name, field in RunConfig.model_fields.items() if not name.endswith("_options")}
    for name in ("plugins", "objects"):
        plain.pop(name)
    table: Table = {"": plain, "oracle": _options(OracleOptions), "privacy": _options(PrivacyOptions)}
    for section, registry in {**registries(), "attack": ATTACKS}.items():
        for name in registry:
            if registry.origin(name) == OWN:
                table[f"{section}.{name}"] = _options(registry[name].Config)
    table["attack"] = {"name": sorted(known("attacks")), "malicious": ["0.2"]}
    return table


def _options(config: type[BaseModel]) -> dict[str, list[str]]:
    return {name: _examples(field) for name, field in config.model_fields.items()}


def _examples(field: FieldInfo) -> list[str]:
    """Return the values of a closed choice, else an empty text and the default."""
    if choices := choices_of(field.annotation):
        return list(choices)
    if field.annotation is bool:
        return ["true", "false"]
    default = shown_default(field.get_default(call_default_factory=True)) if not field.is_required() else ""
    return ["", default] if default and " " not in default and default != "none" else [""]
