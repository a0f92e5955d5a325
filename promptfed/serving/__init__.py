"""Bundles behind HTTP: requests are collected into batches, answered, and forgotten."""
