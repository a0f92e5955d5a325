"""Search without gradients: strategies that ask for candidates and are told how good those were (lower is better)."""
