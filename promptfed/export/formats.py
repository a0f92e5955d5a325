"""The forms in which a run gives a client's prompt away, and where they go by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from promptfed.errors import ConfigError, unknown_name
from promptfed.export.bundle import bundle_folder, write_bundle
from promptfed.export.finished import FinishedRun
from promptfed.export.onnx_folder import onnx_files, write_onnx
from promptfed.export.texts import write_texts
from promptfed.peft_format.writing import write_adapter

FOLDERS = {"bundle": "bundles", "peft": "adapters", "onnx": "onnx", "merged": "merged", "texts": "texts"}
"""Form -> the folder for it in a run's own."""
FORMATS = ("bundle", "peft", "onnx", "texts")


def export_format(format: str, merged: bool) -> str:
    """Return the form that the two options mean.

    Raises:
        ConfigError: They do not go together, or ``format`` is unknown.
    """
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    if merged and format != "bundle":
        what = {"peft": "an adapter", "onnx": "an image classifier", "texts": "synthetic texts"}[format]
        raise ConfigError(f"--merged writes a whole model, and --format {format} {what}: leave one of them out")
    return "merged" if merged else format


def write_export(
    finished: FinishedRun, client: int, form: str, target: Path | None, shared: bool, overwrite: bool
) -> Path:
    """Write what ``client`` deploys and return the folder.

    Args:
        finished: The run.
        client: The number of the client.
        form: "bundle", "peft", "onnx", "texts" or "merged".
        target: The folder; None: the usual one in the run's.
        shared: Whether to leave out all that is the client's own.
        overwrite: Whether to replace a bundle or adapter that is there.

    Raises:
        ConfigError: It cannot be put into that form.
        RunError: The run has no such client.
        BundleError: The folder is in the way, or the disk refuses.
    """
    folder = target or finished.run.path / FOLDERS[form] / bundle_folder(client, shared=shared)
    if form == "merged":
        if overwrite:
            raise ConfigError("a merged model is written into a new folder and replaces none: leave out --overwrite")
        return finished.merged(client, shared_only=shared).save(folder)
    if form == "peft":
        return write_adapter(folder, finished.peft_files(client, shared_only=shared), overwrite=overwrite)
    if form == "onnx":
        files = onnx_files(finished.bundle(client, shared_only=shared), finished.method.setup.model)
        return write_onnx(folder, files, overwrite=overwrite)
    if form == "texts":
        return write_texts(folder, finished.method, finished.prompt(client), overwrite=overwrite)
    return write_bundle(folder, finished.bundle(client, shared_only=shared), overwrite=overwrite)


def write_exports(
    finished: FinishedRun, clients: Sequence[int], form: str, place: Path | None, shared: bool, overwrite: bool
) -> dict[int, Path]:
    """Write what each of ``clients`` deploys into a folder of its own in ``place``; return client -> folder."""
    parent = place or finished.run.path / FOLDERS[form]
    folders = {client: parent / bundle_folder(client, shared=shared) for client in clients}
    return {c: write_export(finished, c, form, folder, shared, overwrite) for c, folder in folders.items()}
