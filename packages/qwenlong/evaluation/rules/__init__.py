"""Scoring rules: pure functions from text to numbers, one file each."""
