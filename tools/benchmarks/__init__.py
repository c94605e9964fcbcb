"""What `tools/bench.py` runs and writes: measurements as raw lines, and RESULTS.md made of them."""
