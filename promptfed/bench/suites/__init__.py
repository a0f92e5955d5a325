"""Suites as YAML files."""
