"""Search without gradients: ask-and-tell strategies (lower fitness is better)."""
