"""Triples from documents by two extractors behind one interface: rules for structured sources, a model for prose."""
