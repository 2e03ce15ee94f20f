"""Tables in documents: found, typed, joined over documents in DuckDB, and asked about."""
