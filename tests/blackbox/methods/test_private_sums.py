"""Black-box methods whose uploads are vectors of numbers, where the server learns a noised sum and nothing else."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.mean import Uniform
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.method import METHODS
from promptfed.option_defaults import private_defaults
from promptfed.privacy.adaptive_clip import CLIP, AdaptiveMean
from promptfed.privacy.release import PrivateMean
from promptfed.privacy.secret_key import SecretKey
from promptfed.privacy_check import check_privacy
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState

KEY = SecretKey(bytes(range(32)))
SMALL = {"queries": 60, "batch_size": 3}
SOFT = {**SMALL, "dim": 6, "n_tokens": 2}
VECTORS = {
    "fedavg_bbt": SOFT,
    "fedbpt": SOFT,
    "fedkseed_prompt": SOFT,
    "fedlogic": {**SMALL, "prompts": ("", "fire", "ice")},
    "fedspsc": {"queries": 60},
    "fedpob": {**SMALL, "embedder": "hashing", "dim": 4},
    "fedicl": {**SMALL, "questions": ("fire a", "ice b", "mild c")},
    "fedbbpt": {**SMALL, "side": "text"},
    "zoopfl": {**SMALL, "side": "text", "pretrain_steps": 5},
}
"""Method -> its options."""
OTHERS = {
    "fedbdpl": "which chooses itself who takes part",
    "fedng": "looks at every single update",
    "feddtpt": "looks at every single update",
    "pfl_gradfree": "looks at every single update",
    "bbt": "which chooses itself who takes part",
}
"""Method -> why its tokens, texts or policies are refused."""


def terms_of(noise=1.0, clip=1.0):
    return PrivacyOptions(dp="client", noise=noise, clip=clip, delta=1e-3)


def method_of(name, setup, **options):
    terms = terms_of()
    usual = private_defaults(METHODS[name], terms.model_dump())
    return build_method(name, {**usual, **VECTORS.get(name, {}), **options}, setup)


def rounds_of(method, task, release=None, count=2):
    """The shared prompts of some rounds, and the replies of the last one."""
    clients = [data.client for data in task.clients]
    rule = Uniform(Uniform.Config())
    federation = Federation(method, rule, LocalEngine(ClientWorker(method, task)), clients, release=release)
    state, states = federation.start(), []
    for _ in range(count):
        state, replies = federation.run_round(state)
        states.append(state.shared)
    return states, replies


def release_of(noise, clip, account=lambda spent: None):
    return PrivateMean(KEY, clip, noise, (0, 1, 2), account=account)


@pytest.mark.parametrize("name", VECTORS)
def test_without_noise_and_with_a_wide_clip_it_is_the_uniform_mean(black_setup, text_task, name):
    """So the mean is all that the server's rule needs, and what it does with it is what it does without privacy."""
    method = method_of(name, black_setup)
    private, _ = rounds_of(method, text_task, release_of(0.0, 1e6))
    plain, _ = rounds_of(method, text_task)
    assert set(private[0]) == set(plain[0])
    for one, other in zip(private, plain, strict=True):
        for tensor in one:
            torch.testing.assert_close(one[tensor], other[tensor], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(private[-1][tensor], method.init_shared()[tensor]) for tensor in private[-1])


@pytest.mark.parametrize("name", VECTORS)
def test_noise_leaves_a_prompt_that_can_be_deployed(black_setup, text_task, name):
    method, spent = method_of(name, black_setup), []
    more_rounds = pytest.raises(ConfigError, match="use --rounds 1")
    with more_rounds if method.rounds < method.setup.rounds else nullcontext():
        check_privacy(terms_of(), method, Uniform(Uniform.Config()), 3, 1.0)
    states, replies = rounds_of(method, text_task, release_of(5.0, 1.0, spent.append))
    again, _ = rounds_of(method, text_task, release_of(5.0, 1.0))
    assert states == again, "the same key, to the bit"
    assert [each.round for each in spent] == [1, 2]
    assert all(state.is_finite() for state in states)
    assert not any(reply.failure for reply in replies)
    scores = method.logits(states[-1], method.init_personal(0), black_setup.classes, text_task.base_test)
    assert scores.shape == (4, 2)


@pytest.mark.parametrize("name", VECTORS)
def test_all_that_is_sent_is_noised(black_setup, text_task, name):
    method = method_of(name, black_setup)
    _, replies = rounds_of(method, text_task, release_of(0.0, 1.0), count=1)
    sent = method.uploads(0, method.init_shared())
    assert all(set(reply.update.shared) == set(sent) for reply in replies)
    assert not {"loss", "fitness", "spread", "seeds"} & set(sent), "losses and choices stay with the client"


@pytest.mark.parametrize("name", ["fedkseed_prompt", "fedbpt"])
def test_a_run_that_goes_on_from_its_bytes_ends_with_the_same_bits(black_setup, text_task, name):
    def federation():
        engine = LocalEngine(ClientWorker(method_of(name, black_setup), text_task))
        release = AdaptiveMean(KEY, 0.1, 0.1, (0, 1, 2))
        rule = build_aggregator("fedadam", {}) if name == "fedkseed_prompt" else Uniform(Uniform.Config())
        return Federation(method_of(name, black_setup), rule, engine, (0, 1, 2), release=release)

    whole = federation()
    state, _ = whole.run_round(whole.start())
    stored = replace(
        state,
        shared=PromptState.from_bytes(state.shared.to_bytes()),
        server=PromptState.from_bytes(state.server.to_bytes()),
    )
    assert stored.server[CLIP] != 0.1, "the clip is a part of the state"
    (one, _), (other, _) = whole.run_round(state), federation().run_round(stored)
    assert one.shared == other.shared
    assert one.server == other.server


@pytest.mark.parametrize(("name", "why"), OTHERS.items())
def test_tokens_texts_and_policies_are_refused_in_a_line(black_setup, name, why):
    with pytest.raises(ConfigError, match=why) as error:
        check_privacy(terms_of(), method_of(name, black_setup, **SMALL), Uniform(Uniform.Config()), 3, 1.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "option", "fix"),
    [
        ("fedbpt", {"merge": "ranks"}, "--set method.merge=mean"),
        ("fedlogic", {"merge": "product"}, "--set method.merge=mean"),
        ("fedkseed_prompt", {"seeds": "client"}, "--set method.seeds=round"),
    ],
)
def test_an_option_that_needs_every_update_is_refused_with_the_one_that_does_not(black_setup, name, option, fix):
    with pytest.raises(ConfigError, match=fix):
        check_privacy(terms_of(), method_of(name, black_setup, **option), Uniform(Uniform.Config()), 3, 1.0)


def test_demonstrations_are_texts(black_setup):
    with pytest.raises(ConfigError, match="looks at every single update"):
        check_privacy(terms_of(), method_of("fedspsc", black_setup, variant="dp"), Uniform(Uniform.Config()), 3, 1.0)


def test_a_client_moves_the_scalars_by_the_clip_at_most(black_setup, text_task):
    """Neighbouring sums: with and without client 1, over the same denominator."""
    method, clip = method_of("fedkseed_prompt", black_setup, clip=100.0, eps=0.01), 0.05
    start = method.init_shared()
    _, replies = rounds_of(method, text_task, count=1)
    updates = [reply.update for reply in replies]
    assert updates[1].shared["scalars"].norm() > clip
    release = release_of(0.0, clip)
    whole, without = (release.mean(start, ["scalars"], some, [0, 1, 2], 1) for some in (updates, updates[::2]))
    assert ((whole.shared["scalars"] - without.shared["scalars"]).norm() * 3).item() == pytest.approx(clip, rel=1e-5)


def test_validation_decides_nothing_under_noise():
    dp, sums, none = ({"dp": "client", "noise": 1.0}, {"secure_aggregation": True}, {})
    for terms, expected in (
        (dp, {"merge": "mean", "keep_zero_shot": False}),
        (sums, {"merge": "mean"}),
        (none, {}),
    ):
        assert private_defaults(METHODS["fedbpt"], PrivacyOptions(**terms).model_dump()) == expected
    assert private_defaults(METHODS["promptfl"], PrivacyOptions(**dp).model_dump()) == {}
