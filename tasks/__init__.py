"""Tasks: data and their distribution to clients. This folder is installed as ``promptfed.tasks``."""

from promptfed.tasks.base import TASKS as TASKS
