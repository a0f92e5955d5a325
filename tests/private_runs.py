"""Runs in a folder that stop and go on, for the tests of private runs."""

from __future__ import annotations

import shutil

import promptfed as pf
from promptfed.experiment import Experiment
from promptfed.privacy.account import read_releases
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted, Training


def train_or_go_on(folder, new_config, stop_after=None):
    """Train in ``folder``, anew with ``new_config()`` or on; return the final shared prompt, or None if it stopped."""
    run = RunDirectory.open(folder) if folder.exists() else RunDirectory.create(folder, new_config(), label="")
    calls = iter(range(10**6))
    experiment = Experiment.build(run.config)
    experiment.fill_features()  # which asks should_stop too, unless they are in the cache
    training = Training(experiment, run, should_stop=lambda: stop_after is not None and next(calls) >= stop_after)
    training.check_same_run()
    try:
        training.execute()
    except Interrupted:
        return None
    return pf.load_run(folder).prompt().shared


def check_resume(trained, folder, terms):
    """Check that a run which stops after every client ends with the bits of one that stops once, and spends no more."""
    assert trained(folder / "whole", stop_after=3, privacy_options=terms) is None
    shutil.copytree(folder / "whole", folder / "cut")
    whole = trained(folder / "whole")
    while (cut := trained(folder / "cut", stop_after=1)) is None:
        pass
    assert cut == whole
    assert len(read_releases(folder / "cut")) == 3
