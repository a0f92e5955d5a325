"""Weights of the bundled policy dt, made by scripts/make_decision_transformer.py."""
