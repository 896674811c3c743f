"""What the sampler's benchmark compares: the work, Transformers' own ways to do it, and the bound."""
