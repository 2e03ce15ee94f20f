"""Rewards: rules per task, the LLM judge, and how they combine."""
