"""BFCL-V4's memory benchmark: records, memory stores, tool calls, conversations, the rule."""
