"""Responses: which there are, as far as they were heard of, and what each was found to be.

One is *noted* by an event call, which anybody may send again, or by a history. It is then read, for
which it is somebody's for a while; what was found of it, what becomes of its link, and what there
is to flag are written in one transaction. One that names no link *waits* for a history that tells
by which it came, and is flagged when that had its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import func, select, update

from milepost.model import DriftKind, Outcome
from milepost.store import tables
from milepost.store.connections import Connections, begun_again, statement
from milepost.store.drift import Flag, clear, flag
from milepost.store.outcomes import Changed, write

LEASE_SECONDS: Final = 120
"""For which responses that were taken are nobody else's: some calls of 10 s each."""

EXPLAINED_SECONDS: Final = 3_600
"""How long a history may take to tell by which link a response came: it comes late (observed), and
one that is flagged too early frightens whoever looks. What it tells later settles the flag."""

UNREADABLE: Final = "unreadable"
"""The rule under which a response is flagged that the platform would not show."""

AT_ONCE: Final = 500

_JUDGED_KINDS: Final = (
    DriftKind.FOREIGN_RESPONSE,
    DriftKind.OTHER_MILESTONE,
    DriftKind.EARLY_RESPONSE,
)
"""What is flagged by what a response is; a second response stays one."""

_NOTE: Final = statement("responses_note")
_TAKE: Final = statement("responses_take")
_JUDGE: Final = statement("responses_judge")
_SECOND: Final = statement("responses_second")
_EXPLAIN: Final = statement("responses_explain")
_GIVE_UP: Final = statement("responses_give_up")
_READ_AGAIN: Final = statement("responses_read_again")


class Unread(Struct, frozen=True, kw_only=True):
    """A response that is to be read."""

    survey_id: str
    response_id: str
    tries: int
    """Of reading it, this one included."""
    distribution_id: str | None
    lookup_id: str | None
    """The link that it came by, where history has told it."""
    age: float
    """Seconds since it was noted."""
    now: datetime
    """The database's time."""


class Judged(Struct, frozen=True, kw_only=True):
    """What a response was found to be."""

    survey_id: str
    response_id: str
    lookup_id: str | None
    """What history had told when it was taken: if that is more by now, nothing is written."""
    started_at: datetime | None
    completed_at: datetime
    verdict: str
    rule: str | None
    link_id: UUID | None
    """The link that it counts for."""
    is_unexplained: bool
    """It names none, and history has not told of one yet."""
    flags: tuple[Flag, ...] = ()


class Settled(Struct, frozen=True, kw_only=True):
    """What judged responses were good for."""

    changed: Sequence[Changed]
    drift: int
    """Facts that were not known."""


def subject(survey_id: str, response_id: str) -> str:
    """What a flag of a response is about."""
    return f"{survey_id}/{response_id}"


class ResponseStore:
    """The verbs of responses; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def note(self, survey_id: str, response_id: str) -> bool:
        """Write down that there is a response; again changes nothing.

        Returns:
            Whether it was not known, and is of a survey of ours.
        """
        given = {"survey": survey_id, "response": response_id}
        async with self._connections.path() as connection:
            return (await connection.execute(_NOTE, given, prepare=True)).rowcount == 1

    async def came_by(self, survey_id: str, response_id: str) -> tuple[str, str] | None:
        """The distribution and lookup id by which history has told that a response came.

        None: no history has told of it yet.
        """
        responses = tables.responses
        query = select(responses.c.distribution_id, responses.c.lookup_id).where(
            responses.c.survey_id == survey_id,
            responses.c.response_id == response_id,
            responses.c.lookup_id.is_not(None),
        )
        async with self._connections.transaction() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else (row.distribution_id, row.lookup_id)

    async def take(self, limit: int) -> list[Unread]:
        """Take responses that are to be read, for `LEASE_SECONDS`."""
        given = {"limit": limit, "lease": LEASE_SECONDS}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_TAKE, given, prepare=True)
            return [msgspec.convert(row, Unread) for row in await cursor.fetchall()]

    async def set_back(self, unread: Unread, pause: float) -> None:
        """Read one again after so many seconds."""
        responses = tables.responses
        due_at = func.milepost_now() + timedelta(seconds=pause)
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(responses)
                .where(
                    responses.c.survey_id == unread.survey_id,
                    responses.c.response_id == unread.response_id,
                    responses.c.tries == unread.tries,
                )
                .values(due_at=due_at)
            )

    @begun_again
    async def give_up(self, unread: Unread, *, flags: bool) -> int:
        """Read one no more, unless history tells of it.

        Args:
            unread: which; nothing is done if somebody else has taken it since.
            flags: whether somebody should know; if not, what was flagged of it before is settled.

        Returns:
            How many were flagged that were not before.
        """
        given = {
            "survey": unread.survey_id,
            "response": unread.response_id,
            "tries": unread.tries,
        }
        async with self._connections.path() as connection, connection.transaction():
            is_ours = (await connection.execute(_GIVE_UP, given)).rowcount == 1
            if not is_ours:
                return 0
            found = Flag(
                kind=DriftKind.FOREIGN_RESPONSE,
                subject=subject(unread.survey_id, unread.response_id),
                survey_id=unread.survey_id,
                response_id=unread.response_id,
                distribution_id=unread.distribution_id,
                lookup_id=unread.lookup_id,
                rule=UNREADABLE,
            )
            if flags:
                return await flag(connection, [found])
            await clear(connection, [(found.kind, found.subject)])
            return 0

    async def read_again(self) -> None:
        """Have those read again that are flagged because they could not be read."""
        again = AT_ONCE
        while again == AT_ONCE:
            given = {"rule": UNREADABLE, "limit": AT_ONCE}
            async with self._connections.path() as connection:
                again = (await connection.execute(_READ_AGAIN, given)).rowcount

    @begun_again
    async def settle(self, judged: Sequence[Judged]) -> Settled:
        """Write down what responses were found to be, and what follows: all, or nothing.

        Of two that are of one link the first is its response: by its end, where they come together.
        """
        if not judged:
            return Settled(changed=[], drift=0)
        given = {"judged": msgspec.json.encode(judged).decode()}
        async with self._connections.path() as connection, connection.transaction():
            # Responses before links, as whoever writes a history locks them.
            rows = await (await connection.execute(_JUDGE, given)).fetchall()
            written = {(row["survey_id"], row["response_id"]) for row in rows}
            still = [one for one in judged if (one.survey_id, one.response_id) in written]
            changed = await write(connection, _outcomes(still))
            seconds = await (await connection.execute(_SECOND, given)).fetchall()
            flags = [each for one in still for each in one.flags]
            flags += [
                Flag(
                    kind=DriftKind.SECOND_RESPONSE,
                    subject=subject(row["survey_id"], row["response_id"]),
                    milestone=row["milestone"],
                    link_id=row["link_id"],
                    survey_id=row["survey_id"],
                    response_id=row["response_id"],
                )
                for row in seconds
            ]
            so = {(each.kind, each.subject) for each in flags}
            names = [subject(*key) for key in sorted(written)]
            gone = {(kind, name) for kind in _JUDGED_KINDS for name in names} - so
            await clear(connection, sorted(gone))
            drift = await flag(connection, flags)
        return Settled(changed=changed, drift=drift)

    @begun_again
    async def flag_unexplained(self) -> int:
        """Flag those that name no link, and of which no history has told in time.

        Returns:
            How many were not flagged before.
        """
        flagged, page = 0, AT_ONCE
        while page == AT_ONCE:
            given = {"seconds": EXPLAINED_SECONDS, "limit": AT_ONCE}
            async with self._connections.path() as connection, connection.transaction():
                rows = await (await connection.execute(_EXPLAIN, given)).fetchall()
                flagged += await flag(
                    connection,
                    [
                        Flag(
                            kind=DriftKind.FOREIGN_RESPONSE,
                            subject=subject(row["survey_id"], row["response_id"]),
                            survey_id=row["survey_id"],
                            response_id=row["response_id"],
                            rule=row["rule"],
                        )
                        for row in rows
                    ],
                )
            page = len(rows)
        return flagged


def _outcomes(judged: Sequence[Judged]) -> list[Outcome]:
    """What becomes of the links that responses count for."""
    first: dict[UUID, Outcome] = {}
    for one in sorted(judged, key=lambda one: (one.completed_at, one.response_id)):
        if one.link_id is not None:
            first.setdefault(
                one.link_id,
                Outcome(
                    link_id=one.link_id,
                    started_at=one.started_at,
                    finished_at=one.completed_at,
                    response_id=one.response_id,
                ),
            )
    return list(first.values())
