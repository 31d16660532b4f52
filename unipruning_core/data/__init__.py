"""Text, the calibration samples drawn from it, and perplexity on it."""
