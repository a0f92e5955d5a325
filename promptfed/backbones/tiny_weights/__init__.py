"""Weights and model card of the bundled backbone `tiny`."""
