"""Where an exported prompt comes from: whose it is, on which data it was trained, when, and how good it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptfed.intervals import wilson_interval
from promptfed.printable import printable
from promptfed.privacy.statement import FILE, promises
from promptfed.result_notes import SHOWN, below_zero_shot
from promptfed.runs.directory import RunDirectory

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class BundleOrigin(BaseModel):
    """What a bundle says of its run. Accuracies are in 0..1, on test examples; those that the run has not are left out.

    ``intervals``: their 95 % intervals, where the run has them. ``below_zero_shot``: those of them that are below
    zero-shot's. ``new_classes``: those that no client trained on.
    ``whose``: the client's own prompt, or the one that all clients share. ``alike``: the other clients that have the
    very same prompt. ``data`` names the source without the folder that it lies in. ``date``: of the last event.
    ``privacy``: what the run promises those who hold the data, and what that leaves out of the prompt; nothing of a run
    without differential privacy or secure sums.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    whose: Literal["client", "shared"]
    alike: tuple[int, ...] = ()
    data: str = ""
    date: str = ""
    accuracy: dict[str, Share] = Field(default_factory=dict)
    intervals: dict[str, tuple[Share, Share]] = Field(default_factory=dict)
    below_zero_shot: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    privacy: tuple[str, ...] = ()


def origin_of(
    run: RunDirectory, client: int, *, shared: bool, alike: tuple[int, ...], is_tuned: bool = False
) -> BundleOrigin:
    """Return where the prompt that ``client`` takes home from ``run`` comes from.

    ``is_tuned``: its data were used once more, after the run.

    The accuracies are those of the run's last evaluation: ``local`` of this client, ``base`` and ``new``. They were
    measured with each client's own prompt, so a shared prompt that differs from these has none.
    """
    events = run.events.read()
    kind, _, path = run.config.data.partition(":")
    place = path.rstrip("/").rpartition("/")[2]
    accuracy: dict[str, float] = {}
    below: list[str] = []
    intervals: dict[str, tuple[float, float]] = {}
    evaluations = {event["stage"]: event for event in events if event["event"] == "evaluation"}
    if run.config.method in evaluations and not (shared and not alike):
        accuracy = _accuracies(evaluations[run.config.method], client)
        intervals = _intervals(run, evaluations[run.config.method], client, accuracy)
        if run.config.method != "zero_shot" and "zero_shot" in evaluations:
            below = below_zero_shot(accuracy, _accuracies(evaluations["zero_shot"], client))
    return BundleOrigin(
        whose="shared" if shared else "client",
        alike=alike,
        data=f"{kind}:{place}" if place else kind,
        date=str(events[-1]["time"])[:10] if events else "",
        accuracy={SHOWN.get(name, name): value for name, value in accuracy.items()},
        intervals=intervals,
        below_zero_shot=tuple(below),
        new_classes=tuple((run.read_json("partition.json") or {}).get("new_classes") or ()),
        privacy=promises(run.read_json(FILE), is_tuned),
    )


def _accuracies(evaluation: Mapping[str, Any], client: int) -> dict[str, float]:
    """Figure -> what ``evaluation`` says of ``client``, without those that it does not have."""
    row: Mapping[str, Any] = next((row for row in evaluation.get("local") or () if row["client"] == client), {})
    values = {"local": row.get("accuracy"), "local_all": row.get("all_classes")}
    values |= {"base": evaluation.get("base"), "new": evaluation.get("new")}
    return {name: value for name, value in values.items() if value is not None}


def _intervals(
    run: RunDirectory, evaluation: Mapping[str, Any], client: int, accuracy: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Shown name of a figure in ``accuracy`` -> its interval, of those that have one."""
    row: Mapping[str, Any] = next((row for row in evaluation.get("local") or () if row["client"] == client), {})
    figures = (run.read_metrics() or {}).get("method") or {}
    ends = {name: pair for name, pair in (figures.get("intervals") or {}).items() if name in ("base", "new") and pair}
    if items := row.get("items"):
        ends |= {name: wilson_interval(accuracy[name], items) for name in ("local", "local_all") if name in accuracy}
    return {SHOWN.get(name, name): (ends[name][0], ends[name][1]) for name in accuracy if name in ends}


def whose_prompt(origin: BundleOrigin | None, client: int, client_name: str) -> str:
    """Return the first words of a README: ``The prompt of client 3 (hospital c)``."""
    name = f"client {client}"
    if client_name != name:
        name += f" ({printable(client_name)})"
    if origin is not None and origin.whose == "shared":
        return f"The prompt that all clients share, exported for {name}"
    return f"The prompt of {name}"


def provenance(origin: BundleOrigin | None) -> str:
    """Return the sentences of a README on data, date, accuracy and clients with the same prompt; empty if unknown."""
    if origin is None:
        return ""
    sentences = []
    if origin.data:
        until = f" until {origin.date}" if origin.date else ""
        sentences.append(f"It was trained on `{printable(origin.data)}`{until}.")
    if origin.accuracy:
        figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in origin.accuracy.items())
        sentences.append(f"Test accuracy in its run: {figures}.")
    if origin.below_zero_shot:
        sentences.append(f"Below zero-shot: {', '.join(origin.below_zero_shot)}.")
    if origin.new_classes:
        names = ", ".join(printable(name) for name in origin.new_classes)
        sentences.append(f"No client trained on these classes of the data, which were held out for tests: {names}.")
    if origin.alike:
        sentences.append(f"{alike_words(origin.alike)} the very same prompt.")
    sentences += [f"{printable(promise)}." for promise in origin.privacy]
    return "\n\n" + " ".join(sentences) if sentences else ""


def alike_words(alike: tuple[int, ...]) -> str:
    """Return ``Client 2 has``, ``Clients 1, 2 and 5 have`` or, of many, ``109 other clients have``."""
    if len(alike) == 1:
        return f"Client {alike[0]} has"
    if len(alike) > 12:
        return f"{len(alike)} other clients have"
    return f"Clients {', '.join(map(str, alike[:-1]))} and {alike[-1]} have"


def same_prompts(origins: Mapping[int, BundleOrigin | None]) -> list[str]:
    """Return a line for each group of clients with one and the same prompt that ``origins`` (by client) tell of."""
    groups = {tuple(sorted((client, *origin.alike))) for client, origin in origins.items() if origin and origin.alike}
    return [
        f"one prompt for {len(group)} clients: nothing in it is a client's own"
        if len(group) > 12
        else f"clients {', '.join(map(str, group[:-1]))} and {group[-1]} have one and the same prompt"
        for group in sorted(groups)
    ]
