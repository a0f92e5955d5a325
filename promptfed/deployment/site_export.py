"""A site's own prompt, from what is on its disk: for `promptfed site export`. Needs neither Flower nor the server."""

from __future__ import annotations

from pathlib import Path

from promptfed.build_method import build_method
from promptfed.config import RunConfig, build_config
from promptfed.deployment.messages import SiteAgreement, Train, Work
from promptfed.deployment.site_examples import form_of
from promptfed.deployment.site_model import site_model
from promptfed.deployment.site_status import spent_words
from promptfed.deployment.site_store import SiteStore, kept_runs
from promptfed.errors import DeploymentError
from promptfed.export.bundle import make_bundle, write_bundle
from promptfed.export.origin import BundleOrigin
from promptfed.frozen_model import FrozenModel
from promptfed.method import Method
from promptfed.processors.client_state import prompt_of
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.runs.partition_file import kind_of_examples
from promptfed.setup import Setup
from promptfed.types import ClientPrompt


def export_site(
    state_dir: Path, out: Path, *, run: str | None = None, backbone: str = "", overwrite: bool = False
) -> tuple[Path, int]:
    """Write the bundle of a site from its state directory.

    Args:
        state_dir: The state directory of the site's node.
        out: The folder to write.
        run: The run; None takes the last one.
        backbone: The site's own path of the backbone, if it differs.
        overwrite: Whether to replace a bundle in ``out``.

    Returns:
        The folder, and the round of the shared prompt in it.

    Raises:
        DeploymentError: The state directory has nothing of the run, or the backbone is another one.
    """
    runs = kept_runs(state_dir)
    if run is None and not runs:
        raise DeploymentError(f"'{state_dir}' keeps nothing of any run: is it the state-dir of this site's node?")
    if run is not None and run not in runs:
        raise DeploymentError(f"'{state_dir}' keeps nothing of run '{run}'; it has {', '.join(runs) or 'none'}")
    store = SiteStore(state_dir, run or runs[-1])
    agreement = store.agreement()
    config = resolve(build_config(agreement.config, {"backbone": backbone} if backbone else {}))
    model = site_model(config, form_of(config, simulated=agreement.simulated))
    if model.fingerprint != agreement.fingerprint:
        raise DeploymentError(
            f"backbone '{config.backbone}' here is not the one of the run: say where its weights are (--backbone)"
        )
    broadcast = store.last_sent(config.method)
    work = Train(
        agreement=agreement, stage=config.method, client=broadcast.client, round=broadcast.after, start=broadcast.start
    )
    method = build_method(config.method, config.method_options, setup_of(agreement, config, model))
    personal = store.personal(method, work)
    bundle_at = write_site_bundle(config, method, work, broadcast.shared, personal, store, out, overwrite)
    return bundle_at, broadcast.after


def setup_of(agreement: SiteAgreement, config: RunConfig, model: FrozenModel) -> Setup:
    """Return the setup of a method at a site, without any data."""
    return Setup(model, agreement.shared(config.rounds, config.seed), config.selection)


def write_site_bundle(
    config: RunConfig,
    method: Method,
    work: Work,
    shared: PromptState,
    personal: PromptState,
    store: SiteStore,
    out: Path,
    overwrite: bool = True,
) -> Path:
    """Write the prompt that the site deploys as a bundle on its own disk, and return its folder."""
    name = work.agreement.sites[work.client].name
    examples = kind_of_examples(method.setup.model.form, method.setup.classes)
    said = spent_words(store.state_dir, work.agreement.run)
    origin = BundleOrigin(whose="client", privacy=said) if said else None
    prompt = ClientPrompt(shared, prompt_of(personal))
    bundle = make_bundle(config, method, prompt, work.client, name, examples, origin=origin)
    return write_bundle(out, bundle, overwrite=overwrite)
