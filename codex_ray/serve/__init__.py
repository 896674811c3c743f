"""Models behind the OpenAI API on Ray Serve."""
