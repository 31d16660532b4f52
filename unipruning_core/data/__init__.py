"""Text: calibration samples out of it, and perplexity on it."""
