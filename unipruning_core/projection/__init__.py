"""Projection: from scores to masks of any sparsity and pruned checkpoints."""
