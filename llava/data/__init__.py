"""Dataset files to samples to conversation records."""
