"""Documents: sources, loaders, quality filters, sections, deduplication."""
