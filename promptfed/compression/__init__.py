"""Outgoing processors that make updates smaller."""
