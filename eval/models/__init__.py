"""Which models work: real chat templates and tokenizers, and tiny models of real architectures."""
