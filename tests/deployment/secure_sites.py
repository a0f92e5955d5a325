"""Sites on a grid in this process that sum their changes, with all that they send noted."""

from __future__ import annotations

from collections import defaultdict

from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment.sum_words import Sum, SumAnswer
from promptfed.experiment import Experiment
from promptfed.privacy.release import SumMean, clipped, flattened
from promptfed.privacy.secret_key import KEY_BYTES, SecretKey
from promptfed.resolve import resolve

TERMS = {"secure_aggregation": True, "clip": 0.5}
KEY = SecretKey(bytes(range(KEY_BYTES)))
NOTED = {"Train": messages.TrainAnswer, "Sum": SumAnswer}


def secure_sites(simulate, clients=3, **options):
    """Return sites that sum their changes; ``sniffed`` has (leg, client) -> their answers."""
    simulation = simulate(**{"clients": clients, "privacy_options": TERMS, **options})
    simulation.sniffed = defaultdict(list)
    for node in list(simulation.grid.nodes):
        intercept(simulation, node, lambda leg, question, answered: answered(question))
    return simulation


def intercept(simulation, node, act):
    """Have ``act(leg, question, answered)`` answer training (leg 'Train') and the legs of sums at ``node``."""
    answered = simulation.grid.nodes[node]

    def answer(content):
        kind = codec.kind_of(content)
        if kind not in NOTED:
            return answered(content)
        leg = codec.unpack(content, Sum).words.leg if kind == "Sum" else kind
        result = act(leg, content, answered)
        simulation.sniffed[leg, node // 100 - 1].append(result)
        return result

    simulation.grid.nodes[node] = answer


def one_round(simulation, state=None, release=None):
    release = release or SumMean(TERMS["clip"], simulation.engine.sums)
    federation = simulation.experiment.federation(engine=simulation.engine, release=release)
    incidents = []
    state, replies = federation.run_round(state or federation.start(), on_incident=incidents.append)
    return state, replies, incidents


def changes_of(small, clients, left_out=(), clip=TERMS["clip"]):
    """The prompt before round 1 and the clipped changes of the local engine's clients."""
    federation = Experiment.build(
        resolve(build_config({**small, "clients": clients, "aggregator": "uniform"}))
    ).federation()
    state = federation.start()
    _, replies = federation.run_round(state)
    names = sorted(state.shared)
    start = flattened(state.shared, names)
    changes = [
        clipped(flattened(reply.update.shared, names) - start, clip)
        for reply in replies
        if reply.client not in left_out
    ]
    return start, changes


def values(state):
    return flattened(state.shared, sorted(state.shared))


def files_of(simulation, client=0):
    folder = simulation.folder / f"site-{client}" / simulation.agreement.run / "promptfl"
    return sorted(path.name for path in folder.glob("sum*"))


def simulation_site(simulation, client):
    from promptfed.deployment.site import Site

    return Site(simulation.options(client)).answer
