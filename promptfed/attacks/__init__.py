"""Attacks as measuring instruments: malicious clients in a run, and what somebody learns from prompts and updates."""
