"""`promptfed personalize`: every client of a run, one after the other or side by side, and the curve over all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from promptfed.client_batch import clients_at_once
from promptfed.errors import ConfigError, RunError
from promptfed.export.finished import FinishedRun
from promptfed.files.atomic import write_bytes, write_text
from promptfed.kept_text import kept_words
from promptfed.method import Method
from promptfed.personalize.finetune import finetune, local_training, require_trainable
from promptfed.personalize.interpolate import Sweep, client_curve, curve_rows, natural_space
from promptfed.personalize.options import FinetuneOptions, PersonalizeOptions
from promptfed.runs.personalized import (
    CURVE,
    CURVE_PLOT,
    CURVE_TABLE,
    Personalized,
    SavedClient,
    TuningOrigin,
    client_rows,
    drop_curve,
    load_client,
    prompt_sha256,
    save_client,
)
from promptfed.scoring import digest
from promptfed.types import ClientData, ClientPrompt, FederatedTask

OnClient = Callable[[int, int], None]
"""Called with (done, total) after each client."""


def decided(options: PersonalizeOptions, finished: FinishedRun) -> PersonalizeOptions:
    """Return ``options`` with every open choice made.

    A method with personal prompts of its own is not fine-tuned: its two prompts are mixed as they are.

    Raises:
        ConfigError: The options do not go with the run's method.
    """
    method, keeps = finished.method, finished.keeps_personal_prompts
    words = kept_words(finished.state)
    is_fixed = not keeps and not method.setup.model.has_gradients
    if is_fixed and words:
        raise ConfigError(
            f"{method.name} {words}, so there is nothing of the clients' own to mix: search for more rounds, or "
            "train with --set method.keep_zero_shot=false"
        )
    if is_fixed:
        raise ConfigError(
            f"clients of {method.name} have nothing of their own to mix, and a black box gives no gradients to "
            "fine-tune by: search for more rounds, or with a method whose clients deploy prompts of their own"
        )
    choice = options.method or ("none" if keeps else "finetune")
    if choice == "finetune" and keeps:
        raise ConfigError(
            f"--method finetune: {method.name} trains personal prompts of its own; use --method none to mix them "
            "with the shared one"
        )
    if choice == "none":
        if not keeps:
            raise ConfigError(
                f"--method none: clients of {method.name} have nothing of their own to mix; use --method finetune"
            )
        useless = options.model_fields_set & FinetuneOptions.model_fields.keys()
        if useless:
            flags = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in useless))
            raise ConfigError(f"{flags} does not go with --method none, which trains nothing; leave it out")
        sample = next(finished.prompt(c) for c, personal in finished.state.personal.items() if len(personal))
        return options.model_copy(update={"method": choice, "space": options.space or natural_space(method, sample)})
    trained_by = require_trainable(method)
    shared = finished.state.shared
    space = options.space or natural_space(method, ClientPrompt(shared, tuned=shared))
    update = {"method": choice, "space": space, "lr": local_training(trained_by.config, options).lr}
    return options.model_copy(update=update)


def personalize_run(
    finished: FinishedRun, task: FederatedTask, options: PersonalizeOptions, on_client: OnClient | None = None
) -> dict[str, Any]:
    """Personalise every client of ``finished`` on its data in ``task``.

    Each client is saved as soon as it is done. A client that is saved with the same options and prompts is skipped, so
    an interrupted call goes on where it was.

    Returns:
        The content of curve.json.

    Raises:
        ConfigError: The options do not go with the run's method.
        TrainingError: A loss is not finite.
    """
    options, run = decided(options, finished), finished.run.path
    origins = {data.client: _origin(finished, data.client, options) for data in task.clients}
    by_client = {client: _saved(finished, client) for client in origins}
    saved = {c: entry.about for c, entry in by_client.items() if entry and entry.about.origin == origins[c]}
    waiting = [data for data in task.clients if data.client not in saved]
    if waiting:
        drop_curve(run)
    size = clients_at_once(finished.run.config, finished.method.setup.model, task.base_classes)
    sweeps: dict[bytes, Sweep] = {}
    for group in _groups(waiting, size):
        for data, prompt in zip(group, _trained_on(finished, group, options), strict=True):
            saved[data.client] = about = _judged(finished, task, data, prompt, origins[data.client], sweeps)
            save_client(run, about, prompt.tuned)
            if on_client is not None:
                on_client(len(saved), len(origins))
    curve = _curve(finished, options, [saved[client] for client in sorted(saved)])
    _write_curve(finished, curve)
    return curve


def _saved(finished: FinishedRun, client: int) -> Personalized | None:
    try:
        return load_client(finished.run.path, client)
    except RunError:  # damaged, or cut short in the middle: it is made again
        return None


def _origin(finished: FinishedRun, client: int, options: PersonalizeOptions) -> TuningOrigin:
    assert options.method is not None, "not decided"
    assert options.space is not None, "not decided"
    trains = options.method == "finetune"
    return TuningOrigin(
        round=finished.state.round,
        prompt_sha256=prompt_sha256(finished.prompt(client)),
        method=options.method,
        space=options.space,
        alphas=options.alphas,
        lr=options.lr if trains else None,
        epochs=options.epochs if trains else None,
        l2_to_global=options.l2_to_global if trains else None,
    )


def _groups(clients: Sequence[ClientData], size: int) -> Iterator[Sequence[ClientData]]:
    for start in range(0, len(clients), size):
        yield clients[start : start + size]


def _trained_on(finished: FinishedRun, group: Sequence[ClientData], options: PersonalizeOptions) -> list[ClientPrompt]:
    jobs = [(finished.prompt(data.client), data) for data in group]
    if options.method == "none":
        return [prompt for prompt, _ in jobs]
    return finetune(finished.method, jobs, finished.state.round + 1, options)


def _judged(
    finished: FinishedRun,
    task: FederatedTask,
    data: ClientData,
    prompt: ClientPrompt,
    origin: TuningOrigin,
    sweeps: dict[bytes, Sweep],
) -> SavedClient:
    prompt, method = replace(prompt, space=origin.space), finished.method
    curve = client_curve(method, prompt, origin.alphas, task, data, _shared_sweep(sweeps, method, prompt, origin))
    return SavedClient(
        client=data.client,
        name=data.name,
        alpha=curve.choice.alpha,
        why=curve.choice.why,
        origin=origin,
        val=curve.val,
        local=curve.local,
        base=curve.base,
        new=curve.new,
    )


def _shared_sweep(
    sweeps: dict[bytes, Sweep], method: Method, prompt: ClientPrompt, origin: TuningOrigin
) -> Sweep | None:
    """Return the sweep of all clients that have nothing of their own; None for one that has."""
    if prompt.is_personal:
        return None
    key = digest(prompt.shared)
    if key not in sweeps:
        sweeps.clear()
        sweeps[key] = Sweep(method, prompt, origin.alphas)
    return sweeps[key]


def _curve(finished: FinishedRun, options: PersonalizeOptions, clients: list[SavedClient]) -> dict[str, Any]:
    examples = finished.method.setup.model.examples
    return {
        **({} if examples == "images" else {"examples": examples}),
        "name": finished.method.name,
        "round": finished.state.round,
        **options.model_dump(include={"method", "space"}),
        "training": options.model_dump(include=set(FinetuneOptions.model_fields)) if options.method != "none" else None,
        "alphas": list(options.alphas),
        "rows": curve_rows(options.alphas, [about.curve for about in clients]),
        "clients": client_rows(clients),
    }


def _write_curve(finished: FinishedRun, curve: dict[str, Any]) -> None:
    from promptfed.report.figures import save
    from promptfed.report.interpolation import curve_figure, curve_markdown

    picture = io.BytesIO()
    save(curve_figure(curve), picture, format="png", dpi=160, metadata={"Software": None})
    write_text(finished.run.path / CURVE_TABLE, curve_markdown(curve))
    write_bytes(finished.run.path / CURVE_PLOT, picture.getvalue())
    finished.run.write_json(CURVE, curve)
