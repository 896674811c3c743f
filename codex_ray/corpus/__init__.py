"""Text to rows of tokens: reading, cleaning, splitting, packing, the global order and its streams."""
