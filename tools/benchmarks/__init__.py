"""What `tools/bench.py` runs: a file a part, on one workbench, and the pages that are made of the lines."""
