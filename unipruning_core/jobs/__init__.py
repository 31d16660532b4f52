"""Whole jobs, from names to results."""
