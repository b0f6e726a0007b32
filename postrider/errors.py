"""What the service refuses. No HTTP numbers here: `postrider.web.problems` has the one table of those.

PostriderError
  InvalidRequest       the request itself is wrong; says which field and why
  NotFound             no such thing, or not yours
  Forbidden            yours to see, not to do
  IllegalTransition    a delivery in a state that does not allow it
  IdempotencyConflict  the key is taken: by another body, or by a call that still runs
  TooManyRequests      over a limit of the caller's own; try again later
  Unavailable          Redis is away, full or slow; try again later
  BadSignature         an incoming call that its messenger did not sign
  WrongMediaType       a body that is not JSON
  TooLarge             a body over the limit
  Misconfigured        at start only: the settings or Redis cannot keep a promise
"""


class PostriderError(Exception):
    """Something the service refuses, with words for the person who asked."""


class InvalidRequest(PostriderError):
    """The request cannot be taken as it is. `field` is a path like `recipients[3].uuid`."""

    def __init__(self, field: str, reason: str, *, alone: bool = False) -> None:
        self.field = field
        self.reason = reason
        super().__init__(reason if alone or not field else f"{field}: {reason}")


class NotFound(PostriderError):
    """No such thing, or none that the caller may see."""


class BadSignature(PostriderError):
    """An incoming call whose signature does not match its raw body."""


class WrongMediaType(PostriderError):
    """A body in a format that this route does not read."""


class TooLarge(PostriderError):
    """A body over the limit."""


class Forbidden(PostriderError):
    """The caller's role does not allow it."""


class IllegalTransition(PostriderError):
    """The state in which a delivery is does not allow it."""


class IdempotencyConflict(PostriderError):
    """An `Idempotency-Key` that belongs to another body, or, with `runs`, to the same call, which still runs."""

    def __init__(self, reason: str, *, runs: bool = False) -> None:
        self.runs = runs
        super().__init__(reason)


class TooManyRequests(PostriderError):
    """The caller is over a limit of its own."""

    def __init__(self, reason: str, *, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(reason)


class Unavailable(PostriderError):
    """Redis cannot answer now. `accepted_unknown`: it went away at the commit, so nobody knows."""

    def __init__(
        self, reason: str, *, retry_after_s: int = 1, accepted_unknown: bool = False
    ) -> None:
        self.retry_after_s = retry_after_s
        self.accepted_unknown = accepted_unknown
        super().__init__(reason)


class Misconfigured(PostriderError):
    """At start only: refuse to run. `faults` holds every fault found, each with its remedy."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))
