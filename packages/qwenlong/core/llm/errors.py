"""What can go wrong between a request and a usable reply."""

from __future__ import annotations

from qwenlong.core.errors import QwenlongError


class LLMError(QwenlongError):
    """An endpoint that gave no usable reply. Never holds the key."""


class Unavailable(LLMError):
    """No usable reply after all tries: unreachable, too slow, overloaded, failing, or not speaking the protocol.

    `kind` is the fault of the last try: "timeout", "connection", "protocol", "status_503", …
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Rejected(LLMError):
    """The server refused this request (4xx): a wrong key, an unknown model, a prompt that is too long.

    `status` is the HTTP status, 0 where none is known; `said` is what the server said.
    """

    def __init__(self, message: str, status: int = 0, said: str = "") -> None:
        super().__init__(message)
        self.status, self.said = status, said
