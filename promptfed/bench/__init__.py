"""Suites of comparisons, run by one command and shown as one table beside published figures."""
