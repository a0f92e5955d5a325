"""Federated search: indices that clients keep, which engines are asked, and how their lists are merged."""
