"""Training: one loop, several sources and objectives, on Ray Train and DeepSpeed."""
