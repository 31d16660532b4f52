"""Files: checkpoints read tensor by tensor, outputs that appear whole or not at all."""
