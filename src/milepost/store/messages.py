"""Messages: what endpoints are told, written down by whatever they tell of.

**An outbox.** A message is written in the transaction of what it tells: by `claim.sql`,
`settle.sql` and `outcomes.sql` for links, by `tell` for the rest. So there is none without its
cause, and no cause without its message. Each endpoint that wants it has one of its own. Of a link a
message holds no copy: it is told as it is when the message goes out, so that nothing of a person
stands in two places.

**Two lines.** An endpoint has two rows of `endpoint_lines`. Whoever sends holds one of them, and so
never more than two attempts are under way at an endpoint, by all processes together. `take` gives a
message to each line that is free, `settle` frees it.

**At least once.** A message is its taker's for `LEASE_SECONDS`, under its attempt number. Should
the taker die, message and line are free after that, and the message is sent again; a taker that was
frozen and comes late changes nothing.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Text, case, cast, delete, func, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from milepost.errors import InvalidEndpoint, UnknownEndpoint, UnknownMessage
from milepost.model import Endpoint, Message, MessageType
from milepost.store import tables
from milepost.store.connections import (
    Connections,
    Row,
    begun_again,
    plain,
    statement,
    storable,
)
from milepost.store.grouping import GroupCommit

LEASE_SECONDS: Final = 30
"""How long an attempt is its taker's alone: three times what one may take."""

LINES: Final = 2
"""Attempts that may be under way at an endpoint."""

MOST_ENDPOINTS: Final = 50
"""With two lines each a process sends to all of them at once, so that no endpoint, be it dead, ever
waits for another one's answer."""

BOTH_SIGN: Final = timedelta(hours=24)
"""How long a secret goes on signing beside the one that has replaced it."""

KEPT: Final = timedelta(days=30)
"""Messages older than that are forgotten, sent or not: their attempts end after a good day."""

FORGOTTEN_AT_ONCE: Final = 1_000
REPLAYED_AT_ONCE: Final = 1_000
"""Rows of one statement."""

_TAKE: Final = statement("message_take")
_SETTLE: Final = statement("message_settle")


class Taken(Struct, frozen=True, kw_only=True):
    """A message that is its taker's to deliver."""

    id: UUID
    type: MessageType
    link_id: UUID | None
    data: dict[str, Any] | None
    created_at: datetime
    attempt: int
    tries: int
    """Which attempt this is of its schedule, from 1 on."""
    line: int
    url: str
    secrets: tuple[str, ...]
    """What signs it, the present one first."""


class Delivery(Struct, frozen=True, kw_only=True):
    """What came of an attempt. It takes effect only while the message is still its taker's."""

    id: UUID
    attempt: int
    line: int
    state: Literal["waiting", "delivered", "parked"]
    pause: float = 0
    """Seconds until the next attempt."""
    seconds: float
    code: int | None = None
    error: str | None = None
    said: str | None = None
    gone: bool = False
    """The endpoint wants no more messages at all."""


class MessageStore:
    """The verbs of endpoints and their messages; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._settlements = GroupCommit(
            self._write_settlements,
            apart=lambda delivery: (delivery.id,),
            same=lambda delivery: (delivery.id, delivery.attempt),
        )

    # --- sending --------------------------------------------------------------------------------

    @begun_again
    async def take(self) -> list[Taken]:
        """Take what is due, as far as lines are free."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(_TAKE, {"lease": LEASE_SECONDS}, prepare=True)
            return [msgspec.convert(row, Taken) for row in await cursor.fetchall()]

    async def settle(self, delivery: Delivery) -> bool:
        """Write down what came of an attempt; False where the message is somebody else's by now."""
        is_settled, _ = await self._settlements.submit(delivery)
        return is_settled

    @begun_again
    async def _write_settlements(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        batch = [
            {
                **msgspec.structs.asdict(delivery),
                "error": delivery.error and storable(delivery.error),
                "said": delivery.said and storable(delivery.said),
            }
            for delivery in deliveries
        ]
        given = msgspec.json.encode(batch).decode()
        async with self._connections.path() as connection:
            cursor = await connection.execute(_SETTLE, {"settlements": given}, prepare=True)
            settled = {row["id"] for row in await cursor.fetchall()}
        return [delivery.id in settled for delivery in deliveries]

    async def forget_some(self) -> bool:
        """Forget the oldest messages, where they are older than `KEPT`.

        Returns:
            Whether there may be more of them.
        """
        messages = tables.messages
        oldest = (
            select(messages.c.id, messages.c.created_at)
            .order_by(messages.c.id)
            .limit(FORGOTTEN_AT_ONCE)
            .subquery()
        )
        old = select(oldest.c.id).where(oldest.c.created_at < func.milepost_now() - KEPT)
        async with self._connections.transaction() as connection:
            forgotten = await connection.execute(delete(messages).where(messages.c.id.in_(old)))
        return forgotten.rowcount == FORGOTTEN_AT_ONCE

    # --- endpoints ------------------------------------------------------------------------------

    async def create(
        self, url: str, types: Sequence[MessageType], description: str
    ) -> tuple[Endpoint, str]:
        """Make an endpoint; returns it with its secret, which is shown this once.

        Raises:
            InvalidEndpoint: there are `MOST_ENDPOINTS` already.
        """
        endpoints, secret = tables.endpoints, _secret()
        made = (
            insert(endpoints)
            .values(
                url=url,
                types=[kind.value for kind in types],
                description=description,
                state="active",
                secret=secret,
                created_at=func.milepost_now(),
            )
            .returning(endpoints.c.id)
        )
        async with self._connections.transaction() as connection:
            count = await connection.scalar(select(func.count()).select_from(endpoints)) or 0
            if count >= MOST_ENDPOINTS:
                raise InvalidEndpoint(
                    f"There are {MOST_ENDPOINTS} endpoints already.",
                    fix="Delete one that is not needed any more.",
                )
            endpoint_id = (await connection.execute(made)).scalar_one()
            await connection.execute(
                insert(tables.endpoint_lines),
                [{"endpoint_id": endpoint_id, "number": number + 1} for number in range(LINES)],
            )
            return await _endpoint(connection, endpoint_id), secret

    async def endpoints(self) -> list[Endpoint]:
        """Every endpoint, the oldest first."""
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(_endpoints())).mappings()
            return [msgspec.convert(plain(row), Endpoint) for row in rows]

    async def endpoint(self, endpoint_id: UUID) -> Endpoint:
        """The endpoint with this id.

        Raises:
            UnknownEndpoint: there is none.
        """
        async with self._connections.transaction() as connection:
            return await _endpoint(connection, endpoint_id)

    async def secrets(self, endpoint_id: UUID) -> tuple[str, ...]:
        """What signs an endpoint's messages, the present one first.

        Raises:
            UnknownEndpoint: there is none.
        """
        endpoints = tables.endpoints
        before = case(
            (endpoints.c.secret_before_until > func.milepost_now(), endpoints.c.secret_before)
        )
        query = select(endpoints.c.secret, before).where(endpoints.c.id == endpoint_id)
        async with self._connections.transaction() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise UnknownEndpoint
        return tuple(secret for secret in row if secret is not None)

    async def delete(self, endpoint_id: UUID) -> None:
        """Remove an endpoint. Its messages are not sent any more, and forgotten with the others.

        Raises:
            UnknownEndpoint: there is none.
        """
        endpoints = tables.endpoints
        await self._change(delete(endpoints).where(endpoints.c.id == endpoint_id))

    async def resume(self, endpoint_id: UUID) -> Endpoint:
        """Send to an endpoint again that was disabled.

        Raises:
            UnknownEndpoint: there is none.
        """
        endpoints = tables.endpoints
        await self._change(
            update(endpoints)
            .where(endpoints.c.id == endpoint_id)
            .values(state="active", disabled_because=None)
        )
        return await self.endpoint(endpoint_id)

    async def rotate(self, endpoint_id: UUID) -> str:
        """Give an endpoint another secret, shown this once; both sign for `BOTH_SIGN`.

        Raises:
            UnknownEndpoint: there is none.
        """
        endpoints, secret = tables.endpoints, _secret()
        await self._change(
            update(endpoints)
            .where(endpoints.c.id == endpoint_id)
            .values(
                secret=secret,
                secret_before=endpoints.c.secret,
                secret_before_until=func.milepost_now() + BOTH_SIGN,
            )
        )
        return secret

    async def _change(self, statement: Any) -> None:
        async with self._connections.transaction() as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise UnknownEndpoint

    # --- messages -------------------------------------------------------------------------------

    async def page(
        self,
        endpoint_id: UUID,
        *,
        state: str | None = None,
        before: UUID | None = None,
        limit: int = 100,
    ) -> list[Message]:
        """Messages of an endpoint with their attempts, the newest first; those before `before`."""
        messages, attempts = tables.messages, tables.attempts
        query = (
            select(messages)
            .where(messages.c.endpoint_id == endpoint_id)
            .order_by(messages.c.id.desc())
            .limit(limit)
        )
        if state is not None:
            query = query.where(messages.c.state == state)
        if before is not None:
            query = query.where(messages.c.id < before)
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings().all()
            made = await connection.execute(
                select(attempts)
                .where(attempts.c.message_id.in_([row["id"] for row in rows]))
                .order_by(attempts.c.message_id, attempts.c.number)
            )
        of_message: dict[UUID, list[Row]] = {row["id"]: [] for row in rows}
        for attempt in made.mappings():
            of_message[attempt["message_id"]].append(plain(attempt))
        return [
            msgspec.convert(plain(row) | {"attempts": of_message[row["id"]]}, Message)
            for row in rows
        ]

    async def replay(
        self, endpoint_id: UUID, *, message: UUID | None = None, since: datetime | None = None
    ) -> int:
        """Have messages sent again, from the beginning of their schedule.

        Args:
            endpoint_id: of the endpoint.
            message: this one, whatever became of it.
            since: all of this moment and later, also those that wait for their next attempt.
                With neither, all that are parked.

        Returns:
            How many.

        Raises:
            UnknownMessage: the endpoint has no such message.
        """
        messages = tables.messages
        wanted = messages.c.endpoint_id == endpoint_id
        if message is not None:
            wanted &= messages.c.id == message
        elif since is not None:
            wanted &= messages.c.created_at >= since
        else:
            wanted &= messages.c.state == "parked"
        count, after = 0, UUID(int=0)
        while True:
            chosen = (
                select(messages.c.id)
                .where(wanted, messages.c.id > after)
                .order_by(messages.c.id)
                .limit(REPLAYED_AT_ONCE)
                # Who holds one of many is at its attempt now. To wait in this order, while they
                # settle in theirs, could be for ever.
                .with_for_update(key_share=True, skip_locked=message is None)
            )
            async with self._connections.transaction() as connection:
                ids = (await connection.execute(chosen)).scalars().all()
                await connection.execute(
                    update(messages)
                    .where(messages.c.id.in_(ids), ~_is_under_way())
                    .values(
                        state="waiting",
                        due_at=func.milepost_now(),
                        attempts_before=messages.c.attempt,
                    )
                )
            count += len(ids)
            if message is not None and not ids:
                raise UnknownMessage
            if len(ids) < REPLAYED_AT_ONCE:
                return count
            after = ids[-1]


async def tell(connection: AsyncConnection, kind: MessageType, data: Mapping[str, Any]) -> None:
    """Write a message for each endpoint that wants this type, in the caller's transaction."""
    endpoints, messages, now = tables.endpoints, tables.messages, func.milepost_now()
    wants = or_(
        func.cardinality(endpoints.c.types) == 0, literal(kind.value) == func.any(endpoints.c.types)
    )
    columns = ("endpoint_id", "type", "data", "due_at", "created_at")
    said = cast(msgspec.json.encode(data).decode(), Text).cast(JSONB)
    told = select(endpoints.c.id, literal(kind.value), said, now, now)
    await connection.execute(
        insert(messages).from_select(columns, told.where(endpoints.c.state == "active", wants))
    )


def _secret() -> str:
    """A secret of 256 bits, in the words of Standard Webhooks."""
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"


def _is_under_way() -> Any:
    """Whether somebody is at a message: its attempt ends by itself, and must not be made twice."""
    messages, lines = tables.messages, tables.endpoint_lines
    return (
        select(lines.c.number)
        .where(
            lines.c.endpoint_id == messages.c.endpoint_id,
            lines.c.message_id == messages.c.id,
            lines.c.lease_until > func.milepost_now(),
            messages.c.state == "waiting",
        )
        .exists()
    )


def _endpoints() -> Any:
    endpoints, lines = tables.endpoints, tables.endpoint_lines
    shown = [name for name in Endpoint.__struct_fields__ if name in endpoints.c and name != "types"]
    types = endpoints.c.types
    return (
        select(
            *(endpoints.c[name] for name in shown),
            case((func.cardinality(types) > 0, types)).label("types"),
            func.max(lines.c.delivered_at).label("delivered_at"),
            func.max(lines.c.failed_at).label("failed_at"),
        )
        .join(lines, lines.c.endpoint_id == endpoints.c.id)
        .group_by(endpoints.c.id)
        .order_by(endpoints.c.id)
    )


async def _endpoint(connection: AsyncConnection, endpoint_id: UUID) -> Endpoint:
    query = _endpoints().where(tables.endpoints.c.id == endpoint_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise UnknownEndpoint
    return msgspec.convert(plain(row), Endpoint)
