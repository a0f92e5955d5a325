"""A site: answers the server's questions from its own data, in a process that may be new for each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from promptfed.aggregators.mean import Mean
from promptfed.attacks.base import check_without_attack
from promptfed.config import RunConfig, build_config, validate
from promptfed.deployment import codec, messages
from promptfed.deployment.fields import LONGEST_TEXT
from promptfed.deployment.kept_process import KEEP_SECONDS
from promptfed.deployment.lost_answers import PingAnswer
from promptfed.deployment.messages import SiteAgreement
from promptfed.deployment.site_export import write_site_bundle
from promptfed.deployment.site_identities import check_identities, told_identity
from promptfed.deployment.site_model import site_model
from promptfed.deployment.site_noise import SiteLimit, check_noise_at_sites, check_plan
from promptfed.deployment.site_store import SiteStore
from promptfed.deployment.site_sums import SiteSums, check_sums, is_summed
from promptfed.deployment.site_task import check_classes, own_answer, read_site, simulated_answer, site_task
from promptfed.deployment.site_training import SiteTraining
from promptfed.deployment.sum_words import Sum
from promptfed.errors import ConfigError, DeploymentError, PromptFedError
from promptfed.evaluation import Judgement, has_choice, judge, judge_parts
from promptfed.experiment import Experiment
from promptfed.frozen_model import FrozenModel
from promptfed.measures.figures import Totals
from promptfed.method import Method
from promptfed.named_model import named_model
from promptfed.plugins import check_site_plugins, load_listed_plugins, load_plugins
from promptfed.printable import printable
from promptfed.processors.client_state import prompt_of
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.resolve import resolve
from promptfed.tasks import TASKS
from promptfed.types import ClientPrompt, Split

log = logging.getLogger(__name__)


class SiteOptions(BaseModel):
    """The options of a node, set by its operator: Flower's ``--node-config``.

    With ``data`` the site has examples of its own and a name, ``site``; with ``partition-id`` it plays one client of a
    task that all nodes deal out alike. The server sees none of these options.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    state_dir: Path = Field(alias="state-dir")
    site: str = ""
    domain: str = ""
    data: str = ""
    partition_id: int | None = Field(None, alias="partition-id", ge=0)
    backbone: str = Field("", description="where this site has the agreed backbone, if its path differs")
    device: str = ""
    lost_state: Literal["stop", "restart"] = Field("stop", alias="lost-state")
    plugins: str = Field("", description="modules and .py files with other people's code, with commas")
    secure_sums: bool = Field(
        False, alias="secure-sums", description="take part only in runs whose server learns no more than sums"
    )
    identities: Path | None = Field(None, description="file of the other sites' pinned identities")
    max_epsilon: float | None = Field(
        None,
        alias="max-epsilon",
        gt=0,
        description="most that this site's examples may spend in all runs together; runs without noise are refused",
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="chance with which that may fail")
    keep_process_seconds: float = Field(
        KEEP_SECONDS,
        alias="keep-process-seconds",
        ge=0,
        description="how long the site's process, with its model, waits for the next message; 0 ends it with each one",
    )

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> SiteOptions:
        """Read and check the options of a node. Raise ConfigError, naming what is missing or wrong."""
        options = validate(cls, node_config, "node-config option")
        if not options.data and options.partition_id is None:
            raise ConfigError(
                'this node\'s --node-config has neither data="folder:PATH" with site="NAME" (a site with data of '
                "its own) nor partition-id=K (one client of a task that all deal out alike)"
            )
        if options.data and not options.site:
            raise ConfigError(f'this node\'s --node-config has data="{options.data}" and no site="NAME"')
        if options.secure_sums and options.max_epsilon is not None:
            raise ConfigError("this node's --node-config has secure-sums and max-epsilon, which no run has both")
        return options

    @property
    def limit(self) -> SiteLimit:
        """What the examples of the site may spend."""
        return SiteLimit(self.max_epsilon, self.delta)

    def load_plugins(self) -> None:
        """Load the plug-ins of ``plugins`` and of PROMPTFED_PLUGINS. Raise ConfigError if one cannot be loaded."""
        load_listed_plugins()
        load_plugins(name.strip() for name in self.plugins.split(",") if name.strip())


class Site:
    """A site, whose method ``answer`` serves all questions of the server.

    The server cannot have a plug-in loaded: those that it names are compared with the operator's.
    """

    def __init__(self, options: SiteOptions) -> None:
        """Load the plug-ins of the operator. Raise ConfigError if one cannot be loaded."""
        options.load_plugins()
        self.options, self._threads = options, torch.get_num_threads()
        self._loaded: tuple[tuple[str, str, PromptTemplate | None], FrozenModel] | None = None
        self._experiments: dict[str, Experiment] = {}
        self._methods: dict[tuple[str, str], Method] = {}
        self._expected: dict[tuple[str, str], PromptState] = {}

    def answer(self, content: Any, began: float | None = None) -> Any:
        """Answer a packed question; an ``ErrorReply`` says why there is no answer.

        Args:
            content: The question.
            began: When the work on it began, in seconds of ``time.monotonic``; None stands for now.
        """
        try:
            began = time.monotonic() if began is None else began
            kind = codec.kind_of(content)
            if kind not in self._handlers:
                raise DeploymentError(f"the server sent a {kind!r} message, which this version does not know")
            return self._handlers[kind](content, began)
        except PromptFedError as error:
            log.warning("%s: %s", self.options.site or f"client {self.options.partition_id}", printable(error))
            return codec.pack(messages.problem(str(error)))
        except Exception as error:  # a prompt that its method cannot work with, or a fault: it ends no process
            log.exception("%s", self.options.site or f"client {self.options.partition_id}")
            return codec.pack(messages.problem(f"{type(error).__name__}: {error} (the site's log has more)"))

    @property
    def _handlers(self) -> dict[str, Callable[[Any, float], Any]]:
        return {
            "Hello": self._hello,
            "Prepare": self._prepare,
            "Train": self._train,
            "Evaluate": self._evaluate,
            "Finish": self._finish,
            "Sum": self._sum,
            "Ping": lambda content, began: codec.pack(PingAnswer()),
        }

    # ---------------------------------------------------------------------------------------- first messages

    def _hello(self, content: Any, began: float) -> Any:
        question = codec.unpack(content, messages.Hello).words
        options, config = self.options, self._config(question.config, question.simulated)
        installed, theirs = version("promptfed"), question.promptfed
        store = SiteStore(options.state_dir, question.run)
        if installed != theirs:
            raise DeploymentError(f"promptfed {installed} is installed here, the server has {theirs}: install the same")
        if question.simulated:
            task = TASKS[config.task].build(config)
            client, form = self._client(len(task.clients)), task.form
            description = simulated_answer(client, task, installed, store.key())
        else:
            data = read_site(options.site, options.data, config)
            if question.classes is not None:
                check_classes(data, question.classes, merged=question.merged)
            domain = options.domain or (options.site if config.task == "clip-domains" else "")
            info, form = messages.SiteInfo.create(name=options.site, domain=domain), data.examples.form
            description = own_answer(info, data, installed, store.key())
        if (fingerprint := self._model(config, form).fingerprint) != question.fingerprint:
            raise DeploymentError(
                f"backbone '{config.backbone}' here has fingerprint {fingerprint[:12]}, the server's "
                f"{question.fingerprint[:12]}: bring the same weights and precision"
            )
        if is_summed(config):
            description = description.model_copy(update={"identity": told_identity(options.state_dir)})
        return codec.pack(description, self._since(began))

    def _prepare(self, content: Any, began: float) -> Any:
        question = codec.unpack(content, messages.Prepare).words
        experiment = self._experiment(question.agreement)
        if is_summed(experiment.config):
            check_identities(self.options.state_dir, question.agreement, self.options.identities)
        if experiment.privacy.dp == "example":
            store = SiteStore(self.options.state_dir, question.agreement.run)
            check_plan(store, question.agreement, experiment, question.client, self.options.limit)
        started, before, clock = self._since(began), experiment.setup.usage(), time.perf_counter()
        experiment.fill_features()
        for note in experiment.run_notes:
            log.warning(note)
        images = (experiment.setup.usage() - before).image_encoder_calls
        return codec.pack(messages.PrepareAnswer.create(images=images, seconds=time.perf_counter() - clock), started)

    # -------------------------------------------------------------------------------------------------- work

    def _train(self, content: Any, began: float) -> Any:
        envelope = codec.unpack(content, messages.Train)
        work, shared = envelope.words, envelope.part("shared")
        experiment, method, store = self._begin(work, shared)
        personal = self._personal(store, method, work)
        started = self._since(began)
        training = SiteTraining(experiment, method, store, self.options.limit, self.options.identities)
        words, update = training.answer(work, shared, personal)
        return codec.pack(words, started, shared=update)

    def _sum(self, content: Any, began: float) -> Any:
        """Answer a leg of a secure sum, without the model: of the run, all that counts was kept with the change."""
        question, started = codec.unpack(content, Sum, most_bytes=0).words, self._since(began)
        sums = SiteSums(SiteStore(self.options.state_dir, question.run), question.stage)
        words, arrays = sums.answer(question)
        return codec.pack(words, started, **arrays)

    def _evaluate(self, content: Any, began: float) -> Any:
        envelope = codec.unpack(content, messages.Evaluate)
        work, shared = envelope.words, envelope.part("shared")
        experiment, method, store = self._begin(work, shared, keep=False)
        prompt, task = ClientPrompt(shared, prompt_of(self._personal(store, method, work))), experiment.task
        started, data = self._since(began), task.clients[work.client]
        split = data.val if work.part == "val" else data.test
        measures = experiment.measures if work.part == "test" else {}
        figures: dict[str, messages.CorrectCount | None] = {}
        totals: dict[str, Totals] = {}

        def note(part: str, result: Judgement, split: Split) -> None:
            figures[part], totals[part] = _correct_count(result.accuracy, split), result.totals

        if len(split):
            note("local_all", judge(method, prompt, task.base_classes, split, None, measures), split)
            if has_choice(data):
                note("local", judge(method, prompt, task.base_classes, split, data.classes, measures), split)
        domains: dict[str, messages.CorrectCount] = {}
        if work.whole:
            if len(task.base_test):
                tests = {"": task.base_test, **task.domain_tests}
                base, *rest = judge_parts(method, prompt, task.base_classes, list(tests.values()), measures)
                note("base", base, task.base_test)
                domains = {
                    d: _correct_count(one.accuracy, tests[d]) for d, one in zip(task.domain_tests, rest, strict=True)
                }
            if len(task.new_test):
                note("new", judge(method, prompt, task.new_classes, task.new_test, None, measures), task.new_test)
        words = messages.EvaluateAnswer.create(
            client=work.client,
            **{"local": None, **figures},
            domains=domains,
            measures={name: _measure_totals(name, totals) for name in measures},
        )
        return codec.pack(words, started)

    def _finish(self, content: Any, began: float) -> Any:
        envelope = codec.unpack(content, messages.Finish)
        work, shared = envelope.words, envelope.part("shared")
        experiment, method, store = self._begin(work, shared)
        started = self._since(began)
        SiteSums(store, work.stage).wipe()
        personal = self._personal(store, method, work)
        folder = write_site_bundle(experiment.config, method, work, shared, personal, store, store.bundle)
        experiment.setup.verify_frozen()
        words = messages.FinishAnswer.create(client=work.client, bundle=printable(folder, LONGEST_TEXT))
        return codec.pack(words, started)

    # ------------------------------------------------------------------------------------------------ pieces

    def _config(self, options: Mapping[str, Any], simulated: bool) -> RunConfig:
        """Return the run's options with the device and the path of the backbone at this site."""
        if simulated == bool(self.options.data):
            raise DeploymentError(
                "the run simulates its clients, and this site shows only data of its own"
                if simulated
                else 'the run asks for sites with data of their own: give this node data="KIND:PATH"'
            )
        overrides = {"device": self.options.device, "backbone": self.options.backbone}
        config = build_config(options, {name: value for name, value in overrides.items() if value})
        for line in check_site_plugins(config.plugins):
            log.warning(line)
        config = resolve(config.model_copy(update={"plugins": {}}))
        check_without_attack(config)
        named_model(config).check_processes("a run over sites")
        check_sums(config)
        if self.options.secure_sums and not is_summed(config):
            raise DeploymentError(
                "this site takes part with secure sums only (secure-sums in its node-config), and the run has none: "
                "set privacy.secure_aggregation=true"
            )
        check_noise_at_sites(config)
        self.options.limit.check(config)
        return config

    def _client(self, clients: int) -> int:
        number = self.options.partition_id
        if number is None or number >= clients:
            raise DeploymentError(f"partition-id is {number}, and the task has clients 0 to {clients - 1}")
        return number

    def _model(self, config: RunConfig, form: PromptTemplate | None) -> FrozenModel:
        """Return the model of ``config``: the last one again, if it is the same."""
        torch.set_num_threads(named_model(config).threads or self._threads)  # a run before may have set others
        wanted = (config.backbone, config.precision, form)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            self._loaded = wanted, site_model(config, form)
        return self._loaded[1]

    def _experiment(self, agreement: SiteAgreement) -> Experiment:
        key = agreement.model_dump_json()
        if key not in self._experiments:
            config = self._config(agreement.config, agreement.simulated)
            torch.set_num_threads(named_model(config).threads or self._threads)
            site, data = self.options.site, self.options.data
            task = None if agreement.simulated else site_task(read_site(site, data, config), agreement, config)
            experiment = Experiment.build(config, model_for=lambda form: self._model(config, form), task=task)
            if experiment.setup.model.fingerprint != agreement.fingerprint:
                raise DeploymentError(f"backbone '{config.backbone}' here is not the one of the run's agreement")
            self._experiments = {key: experiment}
        return self._experiments[key]

    def _begin(
        self, work: messages.Work, shared: PromptState, keep: bool = True
    ) -> tuple[Experiment, Method, SiteStore]:
        experiment = self._experiment(work.agreement)
        task, config, this_client = experiment.task, experiment.config, self.options.partition_id
        if not work.agreement.simulated:
            names = [site.name for site in work.agreement.sites]
            if self.options.site not in names:
                raise DeploymentError(f"site '{self.options.site}' is not one of the agreed sites: {names}")
            this_client = names.index(self.options.site)
        if work.client != this_client or work.client >= len(task.clients):
            raise DeploymentError(f"the server asks for client {work.client}, and this is client {this_client}")
        if work.stage != config.method and work.stage not in experiment.baselines:
            raise DeploymentError(f"the server asks for '{work.stage}', which is not part of the run")
        key = (work.agreement.run, work.stage)
        if key not in self._methods:
            self._methods = {key: experiment.method(work.stage)}
        self._check(experiment, work, shared)
        store = SiteStore(self.options.state_dir, work.agreement.run)
        if keep:
            store.sent(work, shared)
        return experiment, self._methods[key], store

    def _check(self, experiment: Experiment, work: messages.Work, shared: PromptState) -> None:
        """Raise DeploymentError for a shared prompt that does not fit the method."""
        key = (work.agreement.run, work.stage)
        if key not in self._expected:
            method, is_own = self._methods[key], work.stage == experiment.config.method
            server = method.server_side(experiment.aggregator() if is_own else Mean(Mean.Config()))
            first = method.init_shared()
            self._expected = {key: server.broadcast(first, server.init(first), work.client)}
        for name, tensor in self._expected[key].items():
            if name not in shared:
                raise DeploymentError(f"the server sent a prompt of {work.stage} without '{name}'")
            kinds = [f"{one.dtype} {tuple(one.shape)}" for one in (shared[name], tensor)]
            if kinds[0] != kinds[1]:
                raise DeploymentError(f"the server sent '{name}' as {kinds[0]}, not {kinds[1]}")
        if not shared.is_finite():
            raise DeploymentError(f"the server sent a prompt of {work.stage} with numbers that are not finite")

    def _personal(self, store: SiteStore, method: Method, work: messages.Work) -> PromptState:
        try:
            return store.personal(method, work)
        except DeploymentError:
            if self.options.lost_state != "restart":
                raise
            log.warning("the personal prompt of round %d is lost: starting from the initial one", work.start)
            return method.init_personal(work.client)

    def _since(self, began: float) -> float:
        return time.monotonic() - began


def _correct_count(share: float, split: Split) -> messages.CorrectCount:
    return messages.CorrectCount.create(right=round(share * len(split)), of=len(split), accuracy=share)


def _measure_totals(name: str, totals: Mapping[str, Totals]) -> messages.MeasureTotals:
    """Return the totals of the measure ``name`` for each part of the examples."""
    totals_by_part = {part: one[name] for part, one in totals.items()}
    return messages.MeasureTotals.create(
        **{
            part: messages.MeasureTotal.create(sums=one.sums, examples=one.examples)
            for part, one in totals_by_part.items()
        }
    )
