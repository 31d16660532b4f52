"""The arithmetic that backends share: the reference definitions, and one file per kernel family."""
