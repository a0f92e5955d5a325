"""Tasks: data and how it is dealt out. This folder is installed as ``promptfed.tasks``; import it by that name."""

from promptfed.tasks.base import TASKS as TASKS
