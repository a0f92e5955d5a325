"""Aggregators: how the server merges a round's updates. One file for each family of rules."""
