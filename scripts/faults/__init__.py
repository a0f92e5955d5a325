"""Faults made on purpose, counted by what came of them: ``scripts/fault_table.py`` prints the table."""
