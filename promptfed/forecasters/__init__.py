"""Frozen models that forecast series: what a method asks them with a prompt."""
