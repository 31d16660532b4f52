"""What a search holds, moves and takes, from a model's config alone."""
