"""Bundles: what a report rests on, small enough to be committed, and its verification."""
