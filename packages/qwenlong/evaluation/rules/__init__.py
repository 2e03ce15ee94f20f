"""Scoring rules that several benchmarks share: pure functions from text to [0, 1]."""
