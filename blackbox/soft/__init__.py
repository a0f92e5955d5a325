"""Continuous edits of a black box's input: soft prompts and pixel patterns."""
