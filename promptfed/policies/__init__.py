"""Frozen models that act: what a method asks them with a prompt."""
