"""Language models with gradients: loading, reading rows of tokens with an insert, and what heads make of them."""
