"""`promptfed watch`: one local page that follows runs by their event logs, and reads nothing else."""
