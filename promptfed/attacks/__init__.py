"""Attacks: malicious clients for tests of robust aggregation."""
