"""Questions with SQL from a model: SQL decides the answer, a second request whether the question says the same."""
