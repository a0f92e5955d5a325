"""Examples: images, texts and questions, as items of a split."""
