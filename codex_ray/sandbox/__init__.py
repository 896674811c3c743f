"""Running code that a model wrote: apart from the host's files, network and processes, within limits."""
