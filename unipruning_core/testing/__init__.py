"""The conformance suite: what every backend must do, shipped so that third parties can run it on theirs."""
