"""Problems and their verifiers. What a program claims of its solution is not used: all is computed again."""
