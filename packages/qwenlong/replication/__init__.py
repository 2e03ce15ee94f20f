"""Experiments on a machine that is lent for minutes: a list of runs, gone through in pieces, and what travels."""
