"""Oracles behind a server."""
