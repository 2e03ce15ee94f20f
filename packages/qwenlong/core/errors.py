"""Errors that a user can act on: each names the thing, the value and the remedy."""


class QwenlongError(Exception):
    """A failure the user can mend (exit code 1). The message names the thing, its value and the remedy."""

    exit_code = 1


class UsageError(QwenlongError):
    """Wrong usage: a bad option, key or path (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that cannot be accepted: the message names the file, the key and the value."""


class DataError(QwenlongError):
    """Data that cannot be used: the message names the file or record, what is wrong, and the remedy."""


class StorageError(QwenlongError):
    """A file that cannot be written, mostly for want of space: nothing that follows could be kept either."""
