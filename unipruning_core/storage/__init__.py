"""Files: checkpoints read one tensor at a time, outputs that appear whole or not at all."""
