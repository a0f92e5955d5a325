"""Ways in which a request to a server ends without an answer."""

from __future__ import annotations

from promptfed.errors import OracleError


class Unusable(Exception):  # noqa: N818 (becomes an OracleError when it does not heal)
    """Error of an answer that is broken or incomplete; a retry may help."""


class Refused(OracleError):  # noqa: N818 (what the server did)
    """Error of a request that the server will never answer. ``status``: HTTP's."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class Unanswerable(OracleError):  # noqa: N818 (what the question is)
    """Error of a request whose answers stay unusable after all retries."""


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Signal that no further request is to be made."""


class Retryable(Exception):  # noqa: N818
    """Error of an attempt that a retry may heal.

    ``wait``: seconds that the server asks for; ``absent``: no connection could be made.
    """

    def __init__(self, why: str, wait: float = 0.0, unusable: bool = False, absent: bool = False) -> None:
        super().__init__(why)
        self.wait, self.unusable, self.absent = wait, unusable, absent
