"""The search: one calibration, one saliency per weight, and the run folder that keeps them."""
