"""``privacy.json``: what a run promises, to whom, what that rests on, and what it does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.privacy.account import grouped
from promptfed.privacy.accountant import Release, epsilon, epsilon_rdp
from promptfed.privacy.example_statement import example_sentence
from promptfed.privacy.noise_shares import shares_of
from promptfed.privacy.release import Spent
from promptfed.privacy_options import PrivacyOptions

FILE, SITES = "privacy.json", "sites"
PERSONAL = "personal prompts"
TUNED = "the tuning on a client's own data after the run, without noise: keep the result with that client"
"""How the line on clients' own prompts begins."""
SUMMED = "the server can compute the sum of a round's masked changes and no single one"
ENCRYPTED = "the server can compute the ciphertext of the sum of a round's changes, and a client decrypts it for it"
NOISED = "the server can compute the sum of a round's masked changes with the clients' noise, and nothing without it"

ONE_KEY = "a server that works with one client, who has the key of all: it reads every change"


@dataclass(frozen=True)
class Circumstances:
    """What a promise depends on beside its options.

    Attributes:
        clients: How many there are.
        rounds: The planned ones.
        lost: Updates that did not come or were not used.
        engine: Where clients work: "local" and "ray" are simulations, and SITES are none.
        personal: Whether clients have prompts of their own, which they deploy.
        validated: Whether prompts or options were chosen by validation data of the clients.
        asks_api: Whether texts go to a black box.
        start: What the run began with, if not with its method's own prompt.
        attack: The attack that the run simulates; "" for none.
        baselines: Whether others were trained beside the method, which have no noise.
        is_timed: Whether a round is closed after some time.
    """

    clients: int
    rounds: int
    lost: int = 0
    engine: str = "local"
    personal: bool = False
    validated: bool = False
    asks_api: bool = False
    start: str = ""
    attack: str = ""
    baselines: bool = False
    is_timed: bool = False


def statement(terms: PrivacyOptions, releases: Sequence[Spent], facts: Circumstances) -> dict[str, Any]:
    """Return what a run with ``terms`` promises after ``releases``."""
    summed = SUMMED if terms.secure_aggregation else "none"
    if terms.noise_at == "clients" or terms.secure_aggregation == "he":
        summed = ENCRYPTED if terms.secure_aggregation == "he" else NOISED
    if terms.dp != "client":
        return {
            "differential_privacy": "none" if terms.dp == "none" else terms.dp,
            "secure_aggregation": summed,
            "not_covered": _without_noise(terms, facts),
        }
    probability = releases[0].probability if releases else 1.0
    has_noise = all(spent.multiplier for spent in releases) and bool(terms.noise)
    spent = [Release(*kind, count) for kind, count in grouped(releases).items()] if has_noise else []
    return {
        "differential_privacy": "client",
        "unit": "one client's whole data, added or removed",
        "epsilon": epsilon(spent, terms.delta) if has_noise else None,
        "epsilon_rdp": epsilon_rdp(spent, terms.delta) if has_noise else None,
        "epsilon_limit": terms.epsilon,
        "delta": terms.delta,
        "accountant": "privacy loss distribution (dp-accounting); epsilon_rdp is a looser check",
        "mechanism": _mechanism(terms) if has_noise else "no noise",
        "clip": terms.clip,
        **_adaptive(terms, releases),
        "noise_multiplier": terms.noise,
        "sampling": "every client in every round: no amplification is claimed"
        if probability >= 1
        else f"Poisson with probability {probability:g}, from a key that no client knows",
        "denominator": probability * facts.clients,
        "releases": len(releases),
        "rounds": facts.rounds,
        "clients": facts.clients,
        "lost_updates": facts.lost,
        **_trust(terms, facts),
        "secure_aggregation": summed,
        "not_covered": [*_not_covered(facts), *_few_honest(terms, facts), *_vouched(terms, facts)],
    }


def _adaptive(terms: PrivacyOptions, releases: Sequence[Spent]) -> dict[str, Any]:
    """Return how the clip went, round by round, where it adapts."""
    if terms.clip != "adaptive":
        return {}
    clips = {spent.round: spent.clip for spent in releases}
    return {"clip_by_round": ", ".join(f"{clips[round]:.4g}" for round in sorted(clips)), "quantile": terms.quantile}


def _mechanism(terms: PrivacyOptions) -> str:
    if terms.noise_at == "clients":
        return "secure sum of clipped changes, each with its client's share of discrete Gaussian noise"
    if terms.clip == "adaptive":
        return (
            "sum of clipped changes and of one bit a client (within the clip or not), discrete Gaussian noise at the "
            "server; both sums together spend noise_multiplier"
        )
    return "sum of clipped changes, discrete Gaussian noise at the server"


def _trust(terms: PrivacyOptions, facts: Circumstances) -> dict[str, Any]:
    """Return against whom epsilon holds, and where the noise comes from."""
    if terms.noise_at == "server":
        seen = "the exact sum of the changes" if terms.secure_aggregation else "every change"
        return {
            "trusts": f"the server, which sees {seen}, and whoever can read the run's folder",
            "noise_source": "privacy.key of the run's folder, never the run's seed",
        }
    honest = shares_of(terms, facts.clients).honest
    return {
        "trusts": f"{honest} of the clients in each sum, who tell nobody their noise; a server that keeps to the "
        "protocol is not trusted, and may know all that the other clients know",
        "honest_clients": honest,
        "noise_source": "random bytes of each site for each sum, which are neither stored nor sent"
        if facts.engine == SITES
        else "privacy.key of the run's folder, from which each simulated client has a key of its own for each sum",
    }


def _without_noise(terms: PrivacyOptions, facts: Circumstances) -> list[str]:
    if terms.secure_aggregation:
        lines = ["the sum itself, and the prompt made of it, can tell of single clients: add privacy.dp=client"]
        lines += _few_honest(terms, facts)
        if facts.engine == SITES:
            return [*lines, *_vouched(terms, facts)]
        lines.append("each client's loss, accuracy and number of examples, which are sent beside the sum")
        if facts.engine in ("local", "ray"):
            lines.append(f"engine {facts.engine} simulates: whoever runs it holds every update before it is summed")
        return lines
    return ["updates and prompts can tell of the data that they were trained on"]


def _few_honest(terms: PrivacyOptions, facts: Circumstances) -> list[str]:
    """Return what parties that work together, or do not do their part, can learn beyond epsilon."""
    if terms.secure_aggregation == "he":
        return [ONE_KEY]
    if terms.noise_at == "server":
        return []
    honest = shares_of(terms, facts.clients).honest
    return [
        f"a sum with fewer than {honest} honest clients in it: the noise of the others may be known, and with k honest "
        f"ones noise_multiplier is sqrt(k/{honest}) times as large"
    ]


def _vouched(terms: PrivacyOptions, facts: Circumstances) -> list[str]:
    """Return what a secure sum of sites rests on, and what they send beside it."""
    if not terms.secure_aggregation or facts.engine != SITES:
        return []
    return [
        "a server that puts an identity of its own in a site's place, unless operators compared or pinned fingerprints",
        "counts of examples and accuracies of the tests, which sites send beside the sum",
    ]


def _not_covered(facts: Circumstances) -> list[str]:
    """Return, a line each, what is outside epsilon."""
    lines = [
        "losses, counts, times, validation and test figures of clients, and who took part, in the run's folder and, in "
        "part, in a bundle's README: give away the prompt",
        "a choice among several runs by their figures, and other runs on the same clients: epsilons add up",
        "a copy of the run's folder that goes on by itself: it has an account of its own, and epsilons add up",
        "who drops out, and whether a run ends with an error: neither may depend on a client's data",
    ]
    if facts.personal:
        lines.append(f"{PERSONAL}: a client's own, exported, is a release that nothing was added to")
    if facts.validated:
        lines.append("the choice between the trained and the zero-shot prompt by validation data")
    if facts.asks_api:
        lines.append("texts that the black box is asked about: whoever runs it sees them")
    if facts.engine in ("local", "ray"):
        lines.append(f"engine {facts.engine} simulates: all clients' data are in the hands of whoever runs it")
    if facts.is_timed:
        lines.append("who came too late for a round: in a simulation a slow client may cost others their turn")
    return [*lines, *beside(facts)]


def beside(facts: Circumstances) -> list[str]:
    """Return, a line each, what a run was begun with or did beside its private rounds that epsilon knows nothing of."""
    lines = []
    if facts.start:
        lines.append(f"the prompt that it began with ({facts.start}): what that tells of the same data is not counted")
    if facts.attack:
        lines.append(f"attack {facts.attack}: malicious clients may repeat what they know of others' updates and data")
    if facts.baselines:
        lines.append("baselines of the same run: they train without noise, and their prompts are in its folder")
    return lines


def promises(found: Mapping[str, Any] | None, is_tuned: bool = False) -> tuple[str, ...]:
    """Return what a prompt from the run of ``found`` says of privacy; nothing without a promise.

    ``is_tuned``: a client's data were used once more, after the run.
    """
    if found is None or (found["differential_privacy"] == "none" and found["secure_aggregation"] == "none"):
        return ()
    own = [f"not covered: {line}" for line in found["not_covered"] if line.startswith(PERSONAL)]
    own = [f"not covered: {TUNED}"] if is_tuned else own
    return tuple(f"{line[0].upper()}{line[1:]}" for line in (*sentences(found), *own))


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return the statement ``found`` in a few sentences, for a terminal and a report."""
    dp, lines = found["differential_privacy"], []
    if dp == "example":
        lines.append(example_sentence(found))
    elif dp == "client":
        if found["epsilon"] is None:
            lines.append("privacy: none, because no noise was added")
        else:
            lines.append(
                f"privacy: epsilon {found['epsilon']:.2f} at delta {found['delta']:g} for {found['unit']} "
                f"({found['releases']} releases; trusts {found['trusts']})"
            )
    else:
        lines.append("privacy: no differential privacy")
    if found["secure_aggregation"] != "none":
        lines.append(f"secure aggregation: {found['secure_aggregation']}{_simulated(found['not_covered'])}")
    return lines


def _simulated(not_covered: Sequence[str]) -> str:
    """Return " (engine NAME simulates it)" where one of the lines ``not_covered`` says that an engine simulates."""
    said = next((line for line in not_covered if line.startswith("engine ")), "")
    return f" ({said.partition(':')[0]} it)" if said else ""
