"""Comparison of methods in one resumable table, with SparseGPT as a reference."""
