"""Models: where they are found, how they are loaded, and which of their layers are targets."""
