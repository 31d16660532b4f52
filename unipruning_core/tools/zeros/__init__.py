"""What became of the zeros of a pruned checkpoint in what was made of it."""
