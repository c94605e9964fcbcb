"""Passes: a graph in, a graph out; each says what it requires and what it ensures."""
