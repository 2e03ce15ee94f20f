"""Open reproduction of QwenLong-L1.5: data synthesis, AEPO training, merging, memory agent, evaluation, audit."""

__version__ = "0.1.0"
