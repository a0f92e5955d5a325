"""Directions of prompts of the bundled policy dt, made by scripts/make_prompt_basis.py."""
