"""What a training step minimises. An objective knows neither the engine nor the data's origin."""
