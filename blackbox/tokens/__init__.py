"""Prompts that are lists of tokens: vocabulary, local search, word vectors."""
