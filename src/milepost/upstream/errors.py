"""What a call to the survey platform can end with, besides well.

::

    UpstreamError
    └── CallFailed            verb, http_status, error_code, request_id, upstream_message
        ├── Refused           a 4xx in the platform's envelope: the call had no effect
        │   ├── Unauthorized  401: the token is wrong or revoked, or none is to be had
        │   ├── Forbidden     403: the token is good, the thing is not ours
        │   ├── NotFound      404
        │   └── Throttled     429: too many calls; `retry_after`
        │       └── BudgetSpent  our own budget has none left: nothing was sent; `rule`
        ├── Unreachable       no connection, or no access token, in time: nothing was sent
        ├── UnknownOutcome    a write was sent and its effect is not known: ask before repeating
        ├── Unavailable       a read got no answer of the platform's: another try may help
        └── Unreadable        a read was answered in a shape that is not understood

A caller of a write needs the difference between its rows, and nothing else, to go on safely:
`Refused` and `Unreachable` changed nothing, `UnknownOutcome` may have. `UnknownOutcome`,
`Unavailable` and `Unreadable` say why in `cause`.

That a 4xx of the platform's has no effect is inferred: no recording shows otherwise. It is the
platform's only if its body is the platform's envelope, JSON whose `meta` has an `httpStatus` or an
`error`, as every recorded refusal has (observed). A page, an empty body or another JSON under a
4xx, 429 included, was sent by somebody on the way, who may have passed the call on before: it
leaves a write's outcome unknown, and is to a read what a failing gateway is. So are 408 and 499 in
any form, because they are sent while the platform still works on the call.

`str(error)` is made of our own words, numbers and the platform's codes, so that it can be logged.
The platform's sentence about an error may echo what was sent, which includes people's data; it is
kept in `upstream_message` alone, for an admin who asks for it, and is in neither `str()` nor
`repr()`. The driver's exceptions are not chained: theirs may hold the request, and so the token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from milepost.errors import UpstreamError

Cause: TypeAlias = Literal[
    "deadline",  # nothing, or not everything, came back in time
    "disconnected",  # the connection broke after the request began to leave
    "status",  # 5xx, 408 or 499
    "no-envelope",  # another 4xx, but not the platform's: no envelope says so
    "redirect",  # a 3xx, which is never followed
    "oversize",  # more bytes than any answer has
    "not-json",  # HTML, or JSON that is broken or cut off, or an encoding we did not ask for
    "no-result",  # JSON without the result that was wanted, or with another type
    "paging",  # a cursor that is missing, loops, or never ends
]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer said about itself; all None where there was no answer.

    Attributes:
        http_status: The status of the answer.
        error_code: The platform's `errorCode`, such as `GED_3`; often missing (observed).
        request_id: The platform's id of the call, for its support; often missing (observed).
        upstream_message: The platform's sentence. May hold personal data: not for logs.
    """

    http_status: int | None = None
    error_code: str | None = None
    request_id: str | None = None
    upstream_message: str | None = field(default=None, repr=False)


_NO_ANSWER: Final = Facts()


class CallFailed(UpstreamError):
    """A call did not end well.

    Attributes:
        verb: The method of `Upstream` that was called.
        facts: What the answer said about itself, all of it.
        http_status: As in `Facts`, like the next three.
    """

    def __init__(self, verb: str, saying: str, facts: Facts = _NO_ANSWER) -> None:
        self.verb = verb
        self.facts = facts
        self.http_status = facts.http_status
        self.error_code = facts.error_code
        self.request_id = facts.request_id
        self.upstream_message = facts.upstream_message
        told = [
            f"{name} {value}"
            for name, value in (
                ("status", facts.http_status),
                ("code", facts.error_code),
                ("request", facts.request_id),
            )
            if value is not None
        ]
        super().__init__(f"{verb}: {saying}" + (f" ({', '.join(told)})" if told else ""))


class Refused(CallFailed):
    """The platform said no, and nothing was changed."""


class Unauthorized(Refused):
    """The token is missing, wrong or revoked; no call will succeed until it is replaced."""


class Forbidden(Refused):
    """The token is good, but its owner may not do this."""


class NotFound(Refused):
    """What the call names does not exist, or no longer does."""


class Throttled(Refused):
    """Too many calls.

    Attributes:
        retry_after: Seconds to wait, where the answer said so. Whether the platform ever says so
            is not known.
    """

    def __init__(self, verb: str, saying: str, facts: Facts, retry_after: float | None) -> None:
        super().__init__(verb, saying, facts)
        self.retry_after = retry_after


class BudgetSpent(Throttled):
    """The budget granted no call in time: nothing was sent, and nobody but us said no.

    Attributes:
        rule: `budget-spent`, or `upstream-away` where the breaker holds calls back.
        retry_after: Seconds after which asking again may bring a grant.
    """

    def __init__(
        self, verb: str, rule: Literal["budget-spent", "upstream-away"], retry_after: float
    ) -> None:
        super().__init__(verb, f"nothing was sent; {rule}", _NO_ANSWER, retry_after)
        self.rule: Final = rule


class Unreachable(CallFailed):
    """No connection or access token could be had in time, so nothing was sent: safe to repeat."""


class _Inconclusive(CallFailed):
    """Nothing came that settles the call; `cause` says what came instead."""

    def __init__(self, verb: str, saying: str, cause: Cause, facts: Facts = _NO_ANSWER) -> None:
        super().__init__(verb, saying, facts)
        self.cause: Cause = cause


class UnknownOutcome(_Inconclusive):
    """A call that creates or changes something was sent, and what it did is not known."""


class Unavailable(_Inconclusive):
    """A read got no answer that is the platform's own, in as many tries as its deadline allowed."""


class Unreadable(_Inconclusive):
    """A read was answered, but not with what was asked for; asking again would not help."""
