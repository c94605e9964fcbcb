"""Linear algebra: decompositions, the two-sided metric, rounding."""
