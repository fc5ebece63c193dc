"""The errors that Milepost raises itself, drawn as a tree.

::

    MilepostError                 every error of ours; its text is one line for a person
    ├── ConfigurationError        a setting is missing or wrong: the program does not start
    ├── DatabaseError             Postgres cannot be reached, or is not as Milepost needs it
    │   └── DatabaseBusy          for the moment: come back in `retry_after` seconds
    │       └── Recovering        it was restored, and does not know yet what has been made since
    ├── Refusal                   what was asked is not done, and nothing was changed
    │   ├── InvalidRequest        malformed, or a value that can never be right; names the `field`
    │   ├── InvalidData           the event's data do not fit the milestone; names the `fields`
    │   ├── InvalidMilestone      a milestone that cannot work; names the `field`
    │   ├── UnknownMilestone
    │   ├── UnknownRegistrant
    │   ├── UnknownLink
    │   ├── UnknownResponse       of a survey, at the platform
    │   ├── UnknownDrift
    │   ├── EventsUnwanted        no key is set by which event calls could be told from others
    │   ├── EventRefused          an event call that nobody has signed who knows the key
    │   ├── UnknownReminder
    │   ├── NothingGiven          a link of which nobody has a URL
    │   ├── UnknownJob
    │   ├── UnknownRun
    │   ├── UnknownEndpoint
    │   ├── UnknownMessage
    │   ├── InvalidEndpoint       an endpoint that messages cannot go to; names the `field`
    │   ├── ImportTooLarge        more than one request may send
    │   ├── TooManyImports        others are to be taken in first
    │   ├── MilestonePaused       by a person; seen events are answered as ever
    │   └── EventMismatch         the same `event_id` with another payload; names the `fields`
    └── UpstreamError             the survey platform (its branches stand in `upstream/errors.py`)
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from typing import ClassVar


class MilepostError(Exception):
    """Any error of ours; `str(error)` is one line that a person can act on."""


class ConfigurationError(MilepostError):
    """A setting is missing or wrong."""


class DatabaseError(MilepostError):
    """Postgres cannot be reached, or is not as Milepost needs it."""


class DatabaseBusy(DatabaseError):
    """Postgres is away or has no connection left; nothing was promised, so try again."""

    retry_after: ClassVar[int] = 1
    """Seconds until a second try is worth it: a restart of Postgres takes about that long."""


class Recovering(DatabaseBusy):
    """The ledger was restored from a backup: what the platform knows beyond it is looked for."""

    retry_after: ClassVar[int] = 10
    """Seconds; it takes minutes where many links were made since the backup."""

    def __init__(self) -> None:
        super().__init__("the ledger was restored, and job recover has not ended yet")


class UpstreamError(MilepostError):
    """A call to the survey platform did not end well."""


class Refusal(MilepostError):
    """What was asked is not done. `code` is stable and meant for programs.

    Args:
        detail: what is wrong, in one sentence.
        fix: what the caller can do about it.
        field: the path of the field that is wrong, such as `data.flight`.
    """

    code: ClassVar[str]

    def __init__(self, detail: str, *, fix: str | None = None, field: str | None = None) -> None:
        super().__init__(f"{detail} {fix}" if fix else detail)
        self.detail = detail
        self.fix = fix
        self.field = field


class InvalidRequest(Refusal):
    """The request is malformed, or holds a value that can never be right."""

    code = "invalid-request"


class InvalidData(Refusal):
    """The event's data do not fit the fields that the milestone declares.

    Attributes:
        fields: All that are wrong, `field` being the first of them.
    """

    code = "invalid-data"

    def __init__(self, detail: str, *, fields: Sequence[str], fix: str | None = None) -> None:
        super().__init__(detail, fix=fix, field=fields[0])
        self.fields = tuple(fields)


class InvalidMilestone(Refusal):
    """The milestone cannot work as it is defined."""

    code = "invalid-milestone"


class UnknownMilestone(Refusal):
    """No milestone has this key."""

    code = "unknown-milestone"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"There is no milestone {key!r}.",
            fix="GET /v1/milestones lists those that there are; an admin's PUT adds one.",
            field="milestone",
        )


class UnknownRegistrant(Refusal):
    """No registrant has this ref, and the milestone does not wait for them."""

    code = "unknown-registrant"

    def __init__(self, ref: str) -> None:
        super().__init__(
            f"There is no registrant {ref!r}.",
            fix="Register them first, send their details with the event, "
            'or let the milestone wait with "unknown_registrant": "defer".',
            field="registrant",
        )


class UnknownLink(Refusal):
    """No link has this id."""

    code = "unknown-link"

    def __init__(self) -> None:
        super().__init__("There is no link with this id.", field="id")


class UnknownReminder(Refusal):
    """No reminder of such a link was handed out."""

    code = "unknown-reminder"

    def __init__(self) -> None:
        super().__init__(
            "No reminder of a link with this id was handed out.",
            fix="Ask for those that are due with GET /v1/reminders/due.",
            field="link_id",
        )


class NothingGiven(Refusal):
    """Nobody has a URL of this link, so nobody can have been shown it."""

    code = "nothing-given"

    def __init__(self) -> None:
        super().__init__(
            "No URL was given out for this link, so none can have been delivered.",
            fix="Confirm the delivery of links that have a url.",
            field="id",
        )


class UnknownResponse(Refusal):
    """The platform has no such response of the survey."""

    code = "unknown-response"

    def __init__(self) -> None:
        super().__init__("The platform has no such response of this survey.", field="response_id")


class UnknownDrift(Refusal):
    """No drift has this id."""

    code = "unknown-drift"

    def __init__(self) -> None:
        super().__init__("There is no drift with this id.", field="id")


class EventsUnwanted(Refusal):
    """No event call is taken: none could be told from one that somebody has made up."""

    code = "events-unwanted"

    def __init__(self) -> None:
        super().__init__(
            "No event calls are taken here: MILEPOST_EVENTS_KEY is not set.",
            fix="Set it in all processes, then run: milepost events subscribe",
        )


class EventRefused(Refusal):
    """An event call was not signed with the key."""

    code = "event-refused"

    def __init__(self) -> None:
        super().__init__(
            "The HMAC of the event call is missing or wrong.",
            fix="The subscription must have the key that MILEPOST_EVENTS_KEY is.",
        )


class UnknownJob(Refusal):
    """No job has this name."""

    code = "unknown-job"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"There is no job {name!r}.", fix=f"Use one of: {', '.join(known)}.", field="name"
        )


class UnknownRun(Refusal):
    """No run has this id, or it was so long ago that it is forgotten."""

    code = "unknown-run"

    def __init__(self) -> None:
        super().__init__("There is no run with this id.", field="id")


class UnknownEndpoint(Refusal):
    """No endpoint has this id."""

    code = "unknown-endpoint"

    def __init__(self) -> None:
        super().__init__("There is no endpoint with this id.", field="id")


class UnknownMessage(Refusal):
    """The endpoint has no message with this id, or it was so long ago that it is forgotten."""

    code = "unknown-message"

    def __init__(self) -> None:
        super().__init__("The endpoint has no message with this id.", field="message")


class InvalidEndpoint(Refusal):
    """Messages cannot go to this endpoint."""

    code = "invalid-endpoint"


class ImportTooLarge(Refusal):
    """Registrants that are sent at once are more than one request may send."""

    code = "body-too-large"

    def __init__(self, most: str) -> None:
        super().__init__(
            f"An import may have at most {most}.",
            fix="Send it in several, or let MILEPOST_REGISTRANTS_SOURCE name the file.",
        )


class TooManyImports(Refusal):
    """So many imports arrive, or wait to be taken in, that there is no room for another one."""

    code = "too-many-imports"
    retry_after: ClassVar[int] = 60
    """Seconds until a second try is worth it: a large import takes minutes to be taken in."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} imports are on their way already.",
            fix="Send it again when one of them is taken in; GET /v1/jobs/import tells.",
        )


class MilestonePaused(Refusal):
    """A person paused the milestone: an event that was not seen before is refused."""

    code = "milestone-paused"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Milestone {key!r} is paused.",
            fix=f"Send the event again after POST /v1/milestones/{key}/resume.",
            field="milestone",
        )


class EventMismatch(Refusal):
    """The event was seen before with another payload."""

    code = "event-mismatch"

    def __init__(self, event_id: str, fields: Sequence[str]) -> None:
        super().__init__(
            f"Event {event_id!r} was seen before with other values of: {', '.join(fields)}.",
            fix="Send a different event under an event_id of its own.",
            field="event_id",
        )
        self.fields = tuple(fields)


def whereabouts(error: BaseException) -> str:
    """Of which type an error is and where it came about, for a log, without what it says.

    Drivers put values into their errors, and values may be people's data.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = " ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {places}"
