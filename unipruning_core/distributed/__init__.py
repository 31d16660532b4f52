"""One command over several processes: who they are, how a model lies over them, and what becomes of one that fails."""
