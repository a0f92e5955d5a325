"""Processors one after the other: how they are named, what they may do, and what an error of theirs costs."""

from __future__ import annotations

import pytest
import torch
import yaml

from promptfed.aggregators.mean import Mean
from promptfed.config import build_config, parse_settings
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError, ProcessorError
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.processors.base import Outgoing, Processor, ProcessorConfig
from promptfed.processors.client_state import PREFIX, PromptsAlone, joined, prompt_of, states_of
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.run import Run
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted, Training
from promptfed.types import NO_PROMPT, Broadcast

CLIP, QUANTIZE = {"clip": {"max_norm": 1.0}}, {"quantize": {"format": "int8", "error_feedback": False}}
SMALL = {"data": "icons:codicons,elusive", "clients": 2, "shots": 1, "rounds": 3, "threads": 1,
         "task_options": {"test_per_class": 2, "val_shots": 1}, "method_options": {"n_ctx": 2}}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("clip", (CLIP,)),
        ("[clip,quantize]", (CLIP, QUANTIZE)),
        ("[{clip: {max_norm: 1}}, {quantize: {format: int8}}]", (CLIP, QUANTIZE)),
        ("[{quantize: null}]", (QUANTIZE,)),
        ("[]", ()),
    ],
)
def test_every_way_to_name_them_is_one_config(text, found):
    config = resolve(build_config(parse_settings([f"processors={text}"])))
    assert config.processors == found
    assert build_config(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (["clipp"], r"unknown processor 'clipp'. Did you mean 'clip'\? Known: clip, quantize"),
        ([{"clip": {"max_norm": -1}}], "clip option 'max_norm' is -1: input should be greater than 0"),
        ([{"clip": {"norm": 1}}], "unknown clip option 'norm': .*known are max_norm"),
        ([{"quantize": {"format": "int4"}}], "quantize option 'format' is 'int4'"),
        (["clip", "clip"], "processor 'clip' is named twice"),
        (5, "^option 'processors' is 5: give a list of names"),
        ([{"clip": 3}], "give a list of names"),
        ([{"clip": {}, "quantize": {}}], "give a list of names"),
        ([None], "give a list of names"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(value, why):
    with pytest.raises(ConfigError, match=why) as error:
        resolve(build_config({"processors": value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"processors": ["quantize", "clip"]},
            "processor 'clip' does not go with method 'promptfl': it limits changes",
        ),
        ({"method": "local_only", "processors": ["quantize"]}, "it has nothing to act on: this method sends nothing"),
        ({"method": "zero_shot", "processors": ["clip"]}, "method 'zero_shot' trains nothing"),
    ],
)
def test_where_one_cannot_act_the_run_does_not_begin(options, why):
    with pytest.raises(ConfigError, match=why) as error:
        Experiment.build(resolve(build_config({**SMALL, "method_options": {}, **options})))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------- other people's processors


class Mask(Processor):
    """Adds noise that the server takes off again, and counts its updates: random, both halves, state, a figure."""

    figures = ("count",)

    def outgoing(self, update, broadcast, state, streams):
        count = state["count"] + 1 if len(state) else torch.tensor([1])
        return Outgoing(self.moved(update, streams, 1), PromptState({"count": count}), {"count": count.item()})

    def incoming(self, update, broadcast, streams):
        return self.moved(update, streams, -1)

    def moved(self, update, streams, sign):
        noise = {n: torch.randn(t.shape, generator=streams.torch(n)) for n, t in update.shared.items()}
        return type(update)(**{**vars(update), "shared": update.shared + sign * PromptState(noise)})

    def summary(self, figures):
        return f"{max(each['count'] for each in figures):g} updates of a client"


class Failing(Processor):
    """Cannot act at one client, and cannot read what another sent."""

    def outgoing(self, update, broadcast, state, streams):
        if update.client == 0 and broadcast.round:
            raise ProcessorError("stumbles")
        return Outgoing(update)

    def incoming(self, update, broadcast, streams):
        if update.client == 1:
            raise KeyError("no such thing")
        return update


@pytest.fixture
def federation(setup, toy_task):
    def make(processors: Pipeline = NO_PROCESSORS) -> Federation:
        method = PromptFL(PromptFLConfig(n_ctx=2, local_epochs=1), setup)
        worker = ClientWorker(method, toy_task, processors=processors)
        return Federation(method, Mean(Mean.Config()), LocalEngine(worker), range(3), processors=processors)

    return make


def test_both_halves_draw_the_same_numbers_and_state_is_the_client_s_own(federation):
    chain = Pipeline({"mask": Mask(ProcessorConfig())}, seed=3)
    ours, plain = federation(chain), federation()
    state, wanted, seen = ours.start(), plain.start(), []
    for _ in range(2):
        state, replies = ours.run_round(state)
        wanted, _ = plain.run_round(wanted)
        seen += [dict(reply.processor_figures) for reply in replies]
    assert (state.shared - wanted.shared).norm() < 1e-4 * wanted.shared.norm()
    assert [each["mask.count"] for each in seen] == [1, 1, 1, 2, 2, 2]
    assert chain.summaries(seen) == ["2 updates of a client"]
    assert all(
        personal == PromptState({"processor.mask.count": torch.tensor([2])}) for personal in state.personal.values()
    )
    assert ours.prompt(state, 0) == plain.prompt(state, None), "nothing of it is deployed"
    update = PromptState({"ctx": torch.zeros(2, 4)})
    sent = chain.outgoing(replies[0].update, Broadcast(1, update), {}).update.shared["ctx"]
    again = chain.outgoing(replies[0].update, Broadcast(1, update), {}).update.shared["ctx"]
    other = chain.outgoing(replies[0].update, Broadcast(2, update), {}).update.shared["ctx"]
    assert torch.equal(sent, again)
    assert not torch.equal(sent, other)


def test_an_error_costs_that_client_its_update_and_no_more(federation):
    ours = federation(Pipeline({"failing": Failing(ProcessorConfig())}))
    state, replies = ours.run_round(ours.start())
    assert [reply.failure for reply in replies] == [
        "error: processor 'failing' stumbles",
        "refused: client 1 sent an update that cannot be read (KeyError: 'no such thing') in round 1",
        "",
    ]
    assert (state.shared - replies[2].update.shared).norm() < 1e-6


def test_figures_that_no_processor_declares_are_refused(federation):
    class Talkative(Mask):
        figures = ()

    ours = federation(Pipeline({"mask": Talkative(ProcessorConfig())}))
    _, replies = ours.run_round(replace_quorum(ours).start(), on_reply=None)
    assert all("figures of processors that the run has not" in reply.failure for reply in replies)


def replace_quorum(federation: Federation) -> Federation:
    """``federation`` with one client more, who is not asked: else a round of failures alone ends the run."""
    federation.clients = [*federation.clients, 3]
    federation.participants = lambda round: [0, 1, 2]  # type: ignore[method-assign]
    return federation


def test_what_is_kept_is_apart_from_the_prompt():
    prompt, state = PromptState({"ctx": torch.ones(2)}), PromptState({"ctx": torch.zeros(2)})
    both = joined(prompt, {"quantize": state, "clip": NO_PROMPT})
    assert list(both) == ["ctx", f"{PREFIX}quantize.ctx"]
    assert (prompt_of(both), states_of(both)) == (prompt, {"quantize": state})
    assert prompt_of(prompt) is prompt
    assert joined(prompt, {"clip": NO_PROMPT}) is prompt
    assert dict(PromptsAlone({0: both, 1: prompt})) == {0: prompt, 1: prompt}


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits_and_exports_without_residuals(tmp_path):
    chain = [{"clip": {"max_norm": 0.05}}, {"quantize": {"error_feedback": True}}]
    experiment = Experiment.build(resolve(build_config({**SMALL, "processors": chain})))
    whole, cut = (RunDirectory.create(tmp_path / name, experiment.config, label="") for name in ("whole", "cut"))
    metrics = Training(experiment, whole, baselines=()).execute()
    asked = []

    def stop() -> bool:
        asked.append(1)
        return sum(e["event"] == "client" for e in cut.events.read()) == 3  # in the middle of round 2

    with pytest.raises(Interrupted):
        Training(experiment, cut, should_stop=stop, baselines=()).execute()
    resumed = Training(Experiment.build(RunDirectory.open(cut.path).config), cut, baselines=()).execute()
    assert resumed["prompt_sha256"] == metrics["prompt_sha256"]
    one, other = ((run.path / "checkpoints" / "round-0003" / "state.safetensors").read_bytes() for run in (whole, cut))
    assert one == other
    assert b"processor.quantize.ctx" in one
    assert "clip: 6 of 6 updates were longer than 0.05 and were shortened" in metrics["notes"]
    assert metrics["cost"]["bytes_up"] < metrics["cost"]["bytes_down"] / 2
    bundle = Run(whole).export(client=0, path=tmp_path / "bundle")
    assert not [p for p in (tmp_path / "bundle").rglob("*.safetensors") if b"processor." in p.read_bytes()]
    assert bundle
