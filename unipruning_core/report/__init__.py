"""One page on what was searched and pruned: figures, tables and provenance in a file that needs nothing else."""
