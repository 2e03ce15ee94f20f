"""A tiny policy and five tasks of made-up samples (tests/small_run.py): what the engine tests share."""

from small_run import world

__all__ = ["world"]
