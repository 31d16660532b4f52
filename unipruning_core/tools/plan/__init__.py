"""Predictions of a search's memory, traffic and time, from a model's config alone."""
