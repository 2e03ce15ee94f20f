"""Scoring rules of the public benchmarks: pure functions of text."""
