"""Synthesis: questions whose answers are computed from documents, extended to a target length, checked again."""
