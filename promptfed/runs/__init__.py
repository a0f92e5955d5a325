"""The run directory: options, events, metrics and checkpoints of one run, written so that a crash loses nothing."""
