"""Oracles: black-box models behind a cache, a budget and a ledger."""
