"""Oracles in this process."""
