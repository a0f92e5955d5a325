"""Several methods on the same data, seeds and budget, side by side."""
