"""Benchmarks: running, scoring, comparing."""
