"""`promptfed site check`: whether this machine could take part, found out before anyone waits for it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from promptfed.cache_dir import cache_folder
from promptfed.config import RunConfig
from promptfed.deployment import frames
from promptfed.deployment.kept_process import keep_seconds
from promptfed.deployment.reach import reach
from promptfed.deployment.site import SiteOptions
from promptfed.deployment.site_examples import examples_of
from promptfed.deployment.site_identities import pinned_identities
from promptfed.deployment.site_model import model_sentence, site_model
from promptfed.deployment.site_task import SiteData, check_classes, read_site
from promptfed.errors import ConfigError, DataError, DeploymentError, MissingPackageError, PromptFedError
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.files.paths import make_private_folder
from promptfed.frozen_model import FrozenModel
from promptfed.language_models.model import LanguageModel
from promptfed.named_model import usual_model
from promptfed.printable import printable
from promptfed.resolve import resolve
from promptfed.text_lengths import cut_items

FREE_BYTES = 1_000_000_000
"""Room for features and prompts; much less is needed, and a full disk ends a run in the middle."""

FLOWER = "1.41."
NEW_KEY = 'make one by ssh-keygen -t ecdsa -b 384 -N "" -C "" -f FILE'


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: what was checked, whether it passed, and one line about it."""

    what: str
    fine: bool
    said: str


def checks(
    node_config: Mapping[str, Any],
    config: RunConfig,
    *,
    superlink: str | None = None,
    root_certificates: Path | None = None,
    insecure: bool = False,
    classes: Sequence[str] = (),
    fingerprint: str = "",
    key: Path | None = None,
) -> Iterator[CheckResult]:
    """Check what a node needs, and yield each result as it comes. Only the state directory is created.

    Args:
        node_config: The words of the node's operator.
        config: The options of the run, so far as they are known.
        superlink: HOST:PORT of the server; None leaves it out.
        root_certificates: The certificate of the server's authority.
        insecure: Whether the server has no TLS.
        classes: The agreed class names, if they are known.
        fingerprint: The beginning of the server's model's, if it is known.
        key: The private key of the node; None leaves it out.
    """
    try:
        options = SiteOptions.of(node_config)
        options.load_plugins()
    except PromptFedError as error:
        yield CheckResult("node-config", False, str(error))
        return
    overrides = {"backbone": options.backbone, "device": options.device}
    config = config.model_copy(update={name: value for name, value in overrides.items() if value})
    yield _checked("extras", lambda: _extras(options))
    data: list[SiteData] = []
    if options.data:
        yield _checked("data", lambda: _data(options, config, classes, data))
    yield _checked("state-dir", lambda: _state_dir(options.state_dir))
    yield _checked("process", lambda: _process(options))
    if (pins := options.identities) is not None:
        yield _checked("identities", lambda: f"{pins} pins {len(pinned_identities(pins))} sites")
    yield _checked("disk", lambda: _disk([options.state_dir, cache_folder()]))
    model: list[FrozenModel] = []
    yield _checked("backbone", lambda: _backbone(config, fingerprint, model))
    if data and model and isinstance(language_model := model[0], LanguageModel):
        yield _checked("lengths", lambda: _lengths(data[0], language_model, strict=config.strict))
    if key is not None:
        yield _checked("key", lambda: _key(key))
    if superlink is not None:
        yield _checked("superlink", lambda: reach(superlink, root_certificates, insecure))


# -------------------------------------------------------------------------------------------------- pieces


def _checked(what: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(what, True, check())
    except PromptFedError as error:
        return CheckResult(what, False, " ".join(str(error).split()))


def _extras(options: SiteOptions) -> str:
    try:
        flower = version("flwr")
    except PackageNotFoundError as error:
        raise MissingPackageError("Flower is not installed here: pip install 'promptfed[flower]'") from error
    if not flower.startswith(FLOWER):
        raise MissingPackageError(
            f"flwr {flower} is installed, and {FLOWER}* is needed: pip install 'promptfed[flower]'"
        )
    wanted = {"cryptography": ("secure", options.secure_sums or options.identities is not None)}
    wanted["dp_accounting"] = ("dp", options.max_epsilon is not None)
    for module, (extra, is_needed) in wanted.items():
        if is_needed and find_spec(module) is None:
            raise MissingPackageError(
                f"the words of this node need {module}, which is missing: pip install 'promptfed[{extra}]'"
            )
    return f"promptfed {version('promptfed')} (the server needs the same), flwr {flower}"


def _data(options: SiteOptions, config: RunConfig, classes: Sequence[str], found: list[SiteData]) -> str:
    data = read_site(options.site, options.data, resolve(config))
    found.append(data)
    if classes:
        check_classes(data, classes)
    counts = {use: len(part) for use, part in asdict(data.pools).items()}
    if not counts["train"]:
        raise DataError(f"{options.data} has no training {data.examples.noun}")
    numbers = ", ".join(f"{n} {use}" for use, n in counts.items() if n)
    skipped, noun = len(data.source.skipped), data.examples.noun
    left_out = f"; {skipped} unreadable {noun}s are left out" if skipped else ""
    return f"{len(data.source.classes)} classes ({', '.join(data.source.classes)}), {noun}s: {numbers}{left_out}"


def _state_dir(folder: Path) -> str:
    try:
        make_private_folder(folder)
        probe = folder / f".check-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DeploymentError(f"cannot write to {folder}: {error.strerror or error}") from error
    if not folder.is_absolute():
        raise ConfigError(f"state-dir '{folder}' must be an absolute path: nodes do not start where you stand")
    others = " (others may look into it: chmod 700)" if stat.S_IMODE(folder.stat().st_mode) & 0o077 else ""
    return f"{folder} can be written{others if os.name == 'posix' else ''}"


def _process(options: SiteOptions) -> str:
    if not keep_seconds({"state-dir": str(options.state_dir), "keep-process-seconds": options.keep_process_seconds}):
        return "a new process loads the model for each message"
    folder = frames.folder_for(options.state_dir)
    probe = folder / f"check-{os.getpid()}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(probe))
        probe.unlink()
    except OSError as error:
        raise DeploymentError(
            f"{folder} can hold no socket ({error.strerror or error}): put state-dir on a local disk, or add "
            "keep-process-seconds=0 to the words"
        ) from error
    return f"it keeps the model for {options.keep_process_seconds:.0f} s after a message; its socket is in {folder}"


def _disk(folders: Sequence[Path]) -> str:
    for folder in folders:
        there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES:
            raise DeploymentError(f"{there} has {free / 1e9:.1f} GB free, and a run may want {FREE_BYTES / 1e9:.0f} GB")
    return f"more than {FREE_BYTES / 1e9:.0f} GB free"


def _backbone(config: RunConfig, fingerprint: str, found: list[FrozenModel]) -> str:
    config = usual_model(config).config
    model = site_model(config, examples_of(config).form)
    found.append(model)
    if fingerprint and not model.fingerprint.startswith(fingerprint.lower()):
        raise DeploymentError(
            f"{model_sentence(model)}, and the server's is {printable(fingerprint, 64)}: bring the same weights and "
            "precision"
        )
    return f"{model_sentence(model)} ({'as at the server' if fingerprint else 'the server says the same if it fits'})"


def _lengths(data: SiteData, model: LanguageModel, *, strict: bool) -> str:
    items = [sample.item for sample in data.source.samples]
    cut = cut_items(model, items, 0, is_free=data.examples.classes == ANSWER_CLASSES)
    if not cut:
        return f"the model reads each of {len(items)} {data.examples.noun}s whole, up to the tokens of the prompt"
    line = f"{len(cut)} of {len(items)} {data.examples.noun}s are longer than the {model.longest} tokens that it reads"
    if strict:
        raise DataError(f"{line}, which --strict refuses; the first is {cut[0][0].name}")
    return f"{line}: their ends are cut; the first is {cut[0][0].name}"


def _key(path: Path) -> str:
    try:
        about, text = path.stat(), path.read_bytes()
    except OSError as error:
        raise DeploymentError(f"the key {path} cannot be read: {error.strerror or error}") from error
    if b"PRIVATE KEY" not in text[:100]:
        raise DeploymentError(f"{path} is no private key: give the file that ssh-keygen wrote beside the .pub")
    mode = stat.S_IMODE(about.st_mode)
    # What a cluster mounts belongs to the system, and the group may read it.
    if os.name == "posix" and mode & (0o077 if about.st_uid == os.getuid() else 0o007):
        raise DeploymentError(f"the key {path} is open to others (mode {mode:o}): chmod 600 {path}")
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(text, None)
    except (ValueError, TypeError) as error:
        raise DeploymentError(f"the key {path} cannot be used ({error}); {NEW_KEY}") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise DeploymentError(f"the key {path} is of another kind; {NEW_KEY}")
    return f"{path} is a key for this user alone; the server must have its .pub"
