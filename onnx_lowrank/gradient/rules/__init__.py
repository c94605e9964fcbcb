"""One small function an operator: the gradient at its inputs from the gradient at its outputs."""
