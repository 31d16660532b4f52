"""Sparsities: unstructured, N:M, budgets and mixed patterns, with exact counts."""
