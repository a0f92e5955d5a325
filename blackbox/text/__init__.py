"""Prompts that are texts: instructions, word lists, tensors of text, and a filter of quotations."""
