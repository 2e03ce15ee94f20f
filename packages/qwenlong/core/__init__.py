"""Records, configuration, files, prompts, tracking: what every stage shares. No torch."""
