"""The ServerApp: agrees with the sites, then runs promptfed's own loop over them, in a run directory like any other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from promptfed.attacks.base import check_without_attack
from promptfed.config import RunConfig, build_config, read_yaml, validate
from promptfed.counts import number_of, number_or_dash
from promptfed.deployment import codec  # first: it says how to install what the next need
from promptfed.deployment.class_names import joined_classes, lonely_classes, split_names
from promptfed.deployment.engine import FlowerEngine
from promptfed.deployment.evaluator import SiteEvaluator, places
from promptfed.deployment.flower_failures import steady_heartbeats
from promptfed.deployment.flower_waits import shorten_waits_for_parts
from promptfed.deployment.known_sites import Known
from promptfed.deployment.messages import Hello, HelloAnswer, Prepare, PrepareAnswer, SiteAgreement, SiteInfo
from promptfed.deployment.site_examples import OWN_DATA, examples_of, form_of
from promptfed.deployment.site_model import model_sentence, site_model
from promptfed.deployment.site_noise import check_noise_at_sites, with_agreed_noise, with_untrained_baselines
from promptfed.deployment.site_pool import SitePool
from promptfed.deployment.site_sums import check_sums, is_summed
from promptfed.deployment.site_task import NOTHING, agreed_task, remote_task
from promptfed.errors import ConfigError, DeploymentError, PromptFedError, RunError
from promptfed.experiment import Experiment
from promptfed.named_model import named_model
from promptfed.observers.choose import build_observers
from promptfed.option import changing
from promptfed.plugins import load_listed_plugins, load_plugins, short_names
from promptfed.printable import printable_lines
from promptfed.privacy.channel_keys import identity_fingerprint
from promptfed.progress import Progress
from promptfed.report.html import REPORT_FILE
from promptfed.resolve import resolve
from promptfed.runner import RunParts, carry_out
from promptfed.runs.checkpoint import load_checkpoint
from promptfed.runs.directory import RunDirectory, is_run
from promptfed.tasks import TASKS
from promptfed.threads import torch_threads
from promptfed.types import FederatedTask, Reply
from promptfed.usage import Usage

from flwr.app import Context  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

FREE = changing(RunConfig, "free")
"""Options that may be changed when a run goes on."""
LAST_BREATH = 20.0
"""Seconds that the ServerApp of a killed SuperLink may take to notice and to let its run go."""


def say(text: str) -> None:
    """Show a line to whoever watches the run; names in it come from sites."""
    print(printable_lines(text), flush=True)


class ServerOptions(BaseModel):
    """Options of the deployment rather than of the run: Flower's run config."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    run_dir: Path = Field(alias="run-dir")
    classes: str = Field("", description="agreed class names, with commas; by default all that the sites have")
    min_sites: int = Field(1, alias="min-sites", ge=1)
    wait_seconds: float = Field(600, alias="wait-seconds", gt=0)
    patience_seconds: float = Field(300, alias="patience-seconds", ge=0)
    site_seconds: float = Field(3600, alias="site-seconds", gt=0)
    poll_seconds: float = Field(1.0, alias="poll-seconds", gt=0)
    merge_classes: bool = Field(
        False, alias="merge-classes", description="class names that differ in case, blanks or underscores only are one"
    )
    plugins: str = Field("", description="modules and .py files of the server, with commas; sites name their own")
    forget_sites: str = Field(
        "", alias="forget-sites", description="names, with commas, that may be given by another node from now on"
    )
    observers: str = Field("", description="trackers that record the run, with blanks, as of --observer")

    @property
    def agreed(self) -> tuple[str, ...] | None:
        return split_names(self.classes) or None


@dataclass(frozen=True)
class Deployed:
    """What ``serve`` came to: the figures, and where each site has its prompt."""

    metrics: dict[str, Any]
    bundles: dict[int, str]


def server_app(config: Path) -> ServerApp:
    """Build the ServerApp that starts or resumes the run of ``config``, a YAML file of options."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        shorten_waits_for_parts()
        steady_heartbeats()
        try:
            options = validate(ServerOptions, context.run_config, "run config option")
            load_listed_plugins()
            load_plugins(split_names(options.plugins))
            serve(grid, options, build_config(read_yaml(config)))
        except PromptFedError as error:
            end_with(str(error))

    return app


def end_with(error: str) -> NoReturn:
    """End this process so that Flower sends the line ``error`` to whoever watches the run, and ends the run as failed.

    After a mere ``sys.exit`` the line may stay here, and the run counts as running for another minute.
    """
    from flwr.supercore.exit import ExitCode, flwr_exit

    say(f"error: {error}")
    flwr_exit(ExitCode.SERVERAPP_EXCEPTION)


def serve(grid: Grid, options: ServerOptions, config: RunConfig) -> Deployed:
    """Serve the whole run, from the first message to the bundles at the sites.

    Args:
        grid: Flower's connection to the nodes.
        options: What the operator of the server has set.
        config: The options of the run.

    Raises:
        ConfigError: The run is not possible over sites.
        DeploymentError: Too few sites connect.
    """
    if not options.run_dir.is_absolute():
        raise ConfigError(f"run-dir is '{options.run_dir}': give an absolute path, so that a restarted run finds it")
    config = checked(config)
    observers = build_observers(options.observers.split())
    deployment = Deployment(grid, options, config)
    metrics = carry_out(
        deployment.folder,
        PrintProgress(),
        change=deployment.changed,
        observers=observers,
        begin=deployment.begin,
        patience=LAST_BREATH,
    )
    say(f"prompt SHA-256 {metrics['prompt_sha256']}; report: {deployment.folder.path / REPORT_FILE}")
    return Deployed(metrics, deployment.bundles)


class Deployment:
    """A run over the sites of ``grid``, in its folder, which is new or that of a run to go on with.

    ``bundles``: client -> where its site has its prompt, once the run is done.
    """

    def __init__(self, grid: Grid, options: ServerOptions, config: RunConfig) -> None:
        self.grid, self.options, self.config = grid, options, config
        path = options.run_dir
        self.folder = RunDirectory.open(path) if is_run(path) else RunDirectory.create(path, config, label="")
        self.bundles: dict[int, str] = {}

    def changed(self, before: RunConfig) -> RunConfig:
        """Return the options to go on with. Raises RunError if the folder belongs to a run with other ones."""
        old, new = before.model_dump(), self.config.model_dump()
        changed = [name for name in old if old[name] != new[name] and name not in FREE]
        if changed:
            raise RunError(
                f"run directory '{self.folder.path}' belongs to a run with another {', '.join(changed)}: choose "
                f"another run-dir, or go back to {', '.join(f'{name}={old[name]}' for name in changed)}"
            )
        return self.config

    @contextmanager
    def begin(self, config: RunConfig) -> Iterator[RunParts]:
        """Agree with the sites, and yield what the run is carried out with; then every site writes its bundle."""
        options, folder = self.options, self.folder
        with torch_threads(named_model(config).threads):
            known = Known.load(folder)
            known.forget(split_names(options.forget_sites))
            known.save(folder)
            simulated, agreement = config.data != OWN_DATA, known.agreement
            dealt = TASKS[config.task].build(config) if simulated else None
            model = site_model(config, dealt.form if dealt else form_of(config, simulated=False))
            say(f"the model {model_sentence(model)}")
            hello = Hello.create(
                run=known.run,
                simulated=simulated,
                config={**config.model_dump(mode="json"), "plugins": short_names(config.plugins)},
                classes=None if agreement is None and options.agreed is None else _classes(agreement, options),
                fingerprint=model.fingerprint,
                promptfed=version("promptfed"),
                merged=options.merge_classes if agreement is None else agreement.merged,
            )
            sites = SitePool(
                self.grid,
                hello,
                patience=options.patience_seconds,
                poll=options.poll_seconds,
                say=say,
                holders=known.holders,
                on_holders=lambda holders: known.held_by(holders).save(folder),
            )
            wanted = len(agreement.sites) if agreement else len(dealt.clients) if dealt else config.clients or 1
            needed = min(options.min_sites, wanted)
            if agreement is not None:
                sites.agree([site.name for site in agreement.sites])
                say(f"going on with {folder.path}")
            elif dealt is not None:
                sites.agree([data.name for data in dealt.clients])
            sites.gather(wanted, options.wait_seconds)
            if agreement is None:
                if len(sites.connected) < needed:
                    raise DeploymentError(_too_few(sites, needed, options.wait_seconds))
                agreement = _agree(hello, config, sites, dealt, options)
            sites.agree([site.name for site in agreement.sites])
            answers = _answers(known, agreement, sites)
            task = _without_data(dealt) if dealt else remote_task(agreement, answers, config)
            known.agreement, known.answers = agreement, answers
            known.save(folder)
            experiment = Experiment.build(config, model_for=lambda _: model, task=task)
            experiment, agreement = with_agreed_noise(experiment, agreement)
            known.agreement = agreement
            known.save(folder)
            _prepare(sites, agreement, options.site_seconds)
            engine = FlowerEngine(
                sites,
                agreement,
                min_sites=needed,
                wait_seconds=options.wait_seconds,
                client_seconds=config.client_seconds,
            )
            announced = {client: answer.total for client, answer in enumerate(answers)}
            domains = [*agreement.domains, *task.domain_tests]
            evaluator = SiteEvaluator(
                sites,
                agreement,
                options.site_seconds,
                domains=domains,
                examples=announced,
                measures=experiment.measures,
            )
            yield RunParts(experiment, engine, evaluator)
            saved = load_checkpoint(folder.stage_folder(config.method, is_baseline=False))
            assert saved is not None, "a run that was executed has a checkpoint"
            federation = experiment.federation(config.method, engine)
            self.bundles = evaluator.finish(federation, federation.resumed(saved.state))
            for line in places(self.bundles, agreement):
                say(f"prompt at {line}")


class PrintProgress(Progress):
    """Progress as lines of text, which Flower streams to whoever watches the run."""

    def client(self, name: str, reply: Reply) -> None:
        if reply.failure:
            say(f"  client {reply.client}: {reply.failure}")
            return
        start = "" if reply.start_seconds is None else f", after a start of {reply.start_seconds:.1f} s"
        say(f"  client {reply.client}: loss {reply.update.loss:.4f}, {reply.seconds:.1f} s of work{start}")

    def round(
        self, name: str, round: int, loss: float, val_accuracy: float, bytes_sent: int, asked: Usage | None = None
    ) -> None:
        accuracy = f", validation accuracy {100 * val_accuracy:.1f} %" if math.isfinite(val_accuracy) else ""
        say(f"{name} round {round}: loss {number_or_dash(loss, 4)}{accuracy}, {bytes_sent:,} bytes")

    def note(self, text: str) -> None:
        say(text)


# -------------------------------------------------------------------------------------------------- pieces


def checked(config: RunConfig) -> RunConfig:
    """``config`` resolved, if it can be run over sites; else ConfigError."""
    config = resolve(config)
    check_without_attack(config)
    named_model(config).check_processes("a run over sites")
    named_model(config).check_sites()
    config = with_untrained_baselines(config)
    check_noise_at_sites(config)
    check_sums(config)
    if config.data == OWN_DATA:
        examples_of(config).check_options()
        if config.clients is None:
            raise ConfigError("sites bring their own data, so say how many there are: --clients N")
    return config


def _classes(agreement: SiteAgreement | None, options: ServerOptions) -> tuple[str, ...] | None:
    return options.agreed if agreement is None else (*agreement.base_classes, *agreement.new_classes)


def _too_few(sites: SitePool, needed: int, seconds: float) -> str:
    why = "; ".join(sorted(set(sites.problems.values()))) or "no other node answered"
    return f"{len(sites.connected)} sites fit after {seconds:.0f} s, and {needed} are needed (min-sites): {why}"


def _agree(
    hello: Hello, config: RunConfig, sites: SitePool, dealt: FederatedTask | None, options: ServerOptions
) -> SiteAgreement:
    """From the first answers to what all keep to."""
    if dealt is not None:
        base, new, templates = dealt.base_classes, dealt.new_classes, dealt.templates
        members = [SiteInfo.create(name=data.name, domain=data.domain) for data in dealt.clients]
    else:
        names = sorted(sites.connected)
        held = {name: sites.answers[name].classes for name in names}
        fixed = examples_of(config).classes or options.agreed
        joined = fixed or joined_classes(held, merge=hello.merged)
        if fixed is None:
            for note in lonely_classes(held):
                say(f"note: {note}")
        base, new, templates = agreed_task(config, joined)
        if len(base) < 2:
            raise DeploymentError(f"the sites have one class only ('{base[0]}'): at least two are needed")
        members = [sites.answers[name].site for name in names]
    identities = _identities(members, sites) if is_summed(config) else ()
    say(f"agreed: {len(members)} sites ({', '.join(site.name for site in members)}), {len(base)} classes")
    return SiteAgreement.create(
        run=hello.run,
        simulated=dealt is not None,
        config=hello.config,
        base_classes=base,
        new_classes=new,
        templates=templates,
        sites=tuple(members),
        fingerprint=hello.fingerprint,
        merged=hello.merged,
        identities=identities,
    )


def _identities(members: Sequence[SiteInfo], sites: SitePool) -> tuple[str, ...]:
    """Return the public identities of the sites of a run with secure sums, and show their fingerprints."""
    identities = []
    for site in members:
        answer = sites.answers.get(site.name)
        if answer is None or not answer.identity:
            raise DeploymentError(f"{site.name} is not here with its identity, and secure sums begin with all sites")
        say(f"identity of {site.name}: {identity_fingerprint(bytes.fromhex(answer.identity))}")
        identities.append(answer.identity)
    return tuple(identities)


def _answers(record: Known, agreement: SiteAgreement, sites: SitePool) -> list[HelloAnswer]:
    """Return each site's first description of its data, also in a resumed run."""
    if record.answers:
        return record.answers
    if agreement.simulated:
        return []
    return [sites.answers[site.name] for site in agreement.sites]


def _without_data(task: FederatedTask) -> FederatedTask:
    """``task`` with labels alone, which the tables count: the server sees no example, not even a simulated one."""

    def labels(split: Any) -> Any:
        return replace(split, items=())

    clients = tuple(
        replace(data, **{part: labels(getattr(data, part)) for part in ("train", "val", "test", "unlabelled")})
        for data in task.clients
    )
    tests = dict.fromkeys(task.domain_tests, NOTHING)
    return replace(task, clients=clients, base_test=NOTHING, new_test=NOTHING, domain_tests=tests)


def _prepare(sites: SitePool, agreement: SiteAgreement, seconds: float) -> None:
    """Every site gets ready: with a dual encoder it encodes its images once, so that no round has to wait for that."""
    questions = {k: codec.pack(Prepare.create(agreement=agreement, client=k)) for k in range(len(agreement.sites))}
    for client, answer in sorted(sites.ask(questions, group="prepare", seconds=seconds).items()):
        name = agreement.sites[client].name
        try:
            parcel = answer.opened(PrepareAnswer)
            started = f"; its process took {parcel.started:.1f} s to start" if parcel.started is not None else ""
            what = f"{number_of('image', parcel.words.images)} encoded" if parcel.words.images else "ready"
            say(f"{name}: {what} in {parcel.words.seconds:.1f} s{started}")
        except DeploymentError as error:
            say(f"{name} could not prepare: {error}")
