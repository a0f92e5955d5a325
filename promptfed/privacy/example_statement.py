"""``privacy.json`` of a run that protects single examples: what it promises, and what that does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.counts import number_of
from promptfed.privacy.dpsgd import Batches
from promptfed.privacy_options import PrivacyOptions


def example_statement(
    terms: PrivacyOptions,
    noise: float,
    epsilons: Mapping[int, float],
    batches: Mapping[int, Batches],
    rounds: int,
    personal: bool,
    beside: Sequence[str] = (),
    engine: str | None = "local",
) -> dict[str, Any]:
    """Return what a run promises whose clients trained by DP-SGD.

    Args:
        terms: Its options.
        noise: The noise multiplier.
        epsilons: What each client has spent.
        batches: How each client's examples came into its steps.
        rounds: The rounds so far.
        personal: Whether clients have prompts of their own.
        beside: What else it does not cover, a line each.
        engine: What simulates the clients; None: they are sites, each with a key and an account of its own.
    """
    has_noise, holder = noise > 0, "the run's folder" if engine is not None else "a site's state-dir"
    spent = {client: value for client, value in epsilons.items() if batches[client].steps}
    chances = sorted({each.probability for each in batches.values() if each.steps})
    chance = f"{chances[0]:.3g}" if len(chances) == 1 else f"{chances[0]:.3g} to {chances[-1]:.3g}" if chances else "0"
    covered = "all that is trained, what stays at the client too" if personal else "all that is trained"
    return {
        "differential_privacy": "example",
        "unit": "one example of one client, added or removed",
        "epsilon": max(spent.values(), default=0.0) if has_noise else None,
        "epsilon_smallest": min(spent.values(), default=0.0) if has_noise else None,
        "epsilon_of_client": {str(client): value for client, value in spent.items()} if has_noise else None,
        "epsilon_limit": terms.epsilon,
        "delta": terms.delta,
        "accountant": "privacy loss distribution (dp-accounting)",
        "mechanism": f"DP-SGD on {covered}: clipped gradients of examples, discrete Gaussian noise at the client"
        if has_noise
        else "no noise",
        "clip": terms.clip_norm,
        "clip_space": terms.clip_space,
        "noise_multiplier": noise,
        "sampling": "every example in every step: no amplification is claimed"
        if chance == "1"
        else f"Poisson, each example in a step with probability {chance}, from a key that nobody else knows",
        "steps_of_a_round": max((each.steps for each in batches.values()), default=0),
        "rounds": rounds,
        "clients": len(batches),
        "trusts": "nobody outside the site: what it sends has its noise",
        "noise_source": f"privacy.key of {holder}, never the run's seed",
        "secure_aggregation": "none",
        "not_covered": [
            "how many training examples a client has, which sets its steps and its weight, and how long it works",
            "validation and test figures: they are of other examples, without noise",
            "a choice among several runs by their figures, or among rounds by validation data",
            f"other runs on the same examples, and copies of {holder} that go on by themselves: epsilons add up",
            "a person with examples at several sites, or several at one: epsilons add up",
            "personal prompts that are tuned after the run: a client's own, exported, has no noise",
            "cached image features: they are as private as the images",
            *(_of_sites() if engine is None else _of_simulation(engine)),
            *beside,
        ],
    }


def _of_simulation(engine: str) -> list[str]:
    return [
        "baselines: local_only trains without noise, and its prompts are in the run's folder",
        f"engine {engine} simulates: all clients' data and the key are in the hands of whoever runs it",
    ]


def _of_sites() -> list[str]:
    return [
        "counts of examples by class and use, which sites announce before the first round",
        "whether a site answers, and the line that it sends if it cannot",
        "the epsilons: each is what the run cost a site as far as it and the server know; an account that a site lost "
        "counts nothing any more",
    ]


def example_sentence(found: Mapping[str, Any]) -> str:
    """Return the statement ``found`` in a sentence."""
    if found["epsilon"] is None:
        return "privacy: none, because no noise was added"
    largest, smallest = f"{found['epsilon']:.2f}", f"{found['epsilon_smallest']:.2f}"
    among = f"all {found['clients']} clients" if largest == smallest else f"the largest; {smallest} to {largest}"
    return (
        f"privacy: epsilon {largest} ({among}) at delta {found['delta']:g} for {found['unit']} "
        f"({number_of('round', found['rounds'])} of up to {found['steps_of_a_round']} steps; trusts {found['trusts']})"
    )
