"""The thirteen tasks of RULER's standard suite as generators of our own: seeded, of a given length in tokens."""
