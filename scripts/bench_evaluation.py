"""Time validation and evaluation of many clients against asking the method once for each client and part.

    python scripts/bench_evaluation.py                     # 500 and 2,000 clients, icons, `tiny`; four minutes
    python scripts/bench_evaluation.py --clients 200 --methods promptfolio,promptfl

One round in which ``--trained`` clients take part is trained first, so that these have prompts of their own, where a
method has any, and the others what all start from. Then what a round's validation and a run's evaluation say is made in
two ways in turn, in one process: client by client, as a straightforward program does, and by ``promptfed.evaluation``.
Both are timed once, in seconds of the processor, so that others on the machine do not count. Every accuracy of every
client must be the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch

from promptfed.config import RunConfig
from promptfed.evaluation import accuracy, evaluate, has_choice, mean_local_accuracy, own_examples, rows_right
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.types import ClientScore, FederatedTask, FederationState

METHODS = ("promptfl", "promptfolio")


def experiment_of(method: str, clients: int, trained: int, like: Experiment | None) -> Experiment:
    """Return a run of ``method`` with icons, whose features are made."""
    options = {"method": method, "clients": clients, "participation": trained / clients, "threads": 1, "rounds": 3}
    experiment = Experiment.build(RunConfig.model_validate({**options, "task_options": {"overlap": True}}), like)
    experiment.fill_features()
    return experiment


def validate_each(federation: Federation, state: FederationState, task: FederatedTask) -> float:
    """Return the mean accuracy on validation images, client by client."""
    method, choosing = federation.method, [data for data in task.clients if len(data.val) and has_choice(data)]
    return fmean(
        accuracy(method, federation.prompt(state, data.client), task.base_classes, data.val, data.classes)
        for data in choosing
    )


def evaluate_each(federation: Federation, state: FederationState, task: FederatedTask) -> dict[str, Any]:
    """Return test figures, client by client; where all deploy one prompt, base and new are asked once."""
    method, classes = federation.method, task.base_classes
    prompts = {data.client: federation.prompt(state, data.client) for data in task.clients}
    if not any(prompt.is_personal for prompt in prompts.values()):
        different, row = [prompts[0]], dict.fromkeys(prompts, 0)
    else:
        different, row = list(prompts.values()), {client: number for number, client in enumerate(prompts)}
    splits = [task.base_test, *(data.test for data in task.clients)]
    scored = rows_right(method, different, classes, splits)
    local = {}
    for number, data in enumerate(task.clients, 1):
        own = accuracy(method, prompts[data.client], classes, data.test, data.classes) if has_choice(data) else None
        everywhere = scored.right[row[data.client]][scored.rows[number]].mean().item()
        local[data.client] = ClientScore(own, everywhere, len(data.test))
    return {
        "local": local,
        "base": fmean(right[scored.rows[0]].mean().item() for right in scored.right),
        "new": fmean(accuracy(method, prompt, task.new_classes, task.new_test) for prompt in different),
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` returns, and the seconds of the processor that it takes."""
    began = time.process_time()
    outcome = work()
    return outcome, time.process_time() - began


def measured(experiment: Experiment) -> str:
    """Return a row of the table. Raises SystemExit if the two ways disagree."""
    task = experiment.task
    federation = experiment.federation(experiment.config.method)
    state, _ = federation.run_round(federation.start())
    prompts, method = federation.prompts(state), federation.method
    examples = own_examples(task, "val")
    mean_local_accuracy(method, prompts, task, "val", examples)  # texts that never change are encoded
    plain_val, plain_seconds = timed(lambda: validate_each(federation, state, task))
    val, val_seconds = timed(lambda: mean_local_accuracy(method, prompts, task, "val", examples))
    plain, plain_test = timed(lambda: evaluate_each(federation, state, task))
    found, test_seconds = timed(lambda: evaluate(method, prompts, task))
    figures = {"local": found.local, "base": found.figures.base, "new": found.figures.new}
    if val != plain_val or figures != plain:
        wrong = [client for client in found.local if found.local[client] != plain["local"][client]]
        raise SystemExit(f"{method.name}: validation {val} and {plain_val}, tests differ for clients {wrong}")
    return (
        f"| {len(task.clients):,} | {method.name} | {plain_seconds:.2f} s | {val_seconds:.2f} s "
        f"| {plain_seconds / val_seconds:.0f}x | {plain_test:.2f} s | {test_seconds:.2f} s "
        f"| {plain_test / test_seconds:.0f}x |"
    )


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[500, 2000], help="how many [500 2000]")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"comma-separated [{','.join(METHODS)}]")
    parser.add_argument("--trained", type=int, default=60, help="clients that took part [60]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| clients | method | validation, each | together | ratio | evaluation, each | together | ratio |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for clients in options.clients:
        like = None
        for method in options.methods.split(","):
            like = experiment_of(method, clients, options.trained, like)
            print(measured(like), flush=True)


if __name__ == "__main__":
    main()
