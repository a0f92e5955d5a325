"""Outgoing processors that limit what an update can say about one client."""
