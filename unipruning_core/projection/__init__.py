"""Projection: from scores to masks of any sparsity, and to pruned checkpoints."""
