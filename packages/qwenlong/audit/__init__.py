"""The audit: claims, tables, curves, provenance and the report. Reads files only."""
