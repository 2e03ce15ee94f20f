"""The memory agent: documents of any length through a model of a small window."""
