"""The graph as protobuf holds it: constants, traversal, names, a view of weights and their readers; files."""
