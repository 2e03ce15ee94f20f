"""Models served by a run: replicas, one address before them, and their end."""
