"""Weights of a graph: which can be factored, where they come from, how their factors are stored."""
