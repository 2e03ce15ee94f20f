"""Batched generation on local models; the only place outside training that imports torch for it."""
