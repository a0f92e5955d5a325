"""Engines: where the work of clients runs."""
