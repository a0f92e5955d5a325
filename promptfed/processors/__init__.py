"""Outgoing processors: what happens to an update between a client's training and its reply, and back at the server."""
