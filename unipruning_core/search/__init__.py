"""The search: one calibration, one saliency a weight, and the run folder that keeps them."""
