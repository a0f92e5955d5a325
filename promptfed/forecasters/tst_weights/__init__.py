"""Weights and model card of the bundled forecaster `tst`."""
