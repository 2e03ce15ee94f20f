"""The plan of a run before it is paid for: stages, GPU-hours, tokens, disk, judge calls, wall time."""
