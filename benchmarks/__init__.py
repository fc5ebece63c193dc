"""Benchmarks: every figure is a ratio inside one run, the median of alternating rounds."""
