"""The budget's ledger: how many calls were granted lately, and what 429s have taught.

A limit holds across processes because each grant is written down before it is used, in the half
second in which the database made it, while one row is locked for all (`sql/budget_lock.sql`). A
process comes with all that it has to say at once: one round trip and one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct
from psycopg import AsyncCursor
from psycopg.rows import DictRow

from milepost.model import Purpose
from milepost.store.connections import Connections, statement

BRAND: Final = "brand"
"""The name of the limit over all call classes."""

_ROOM: Final = statement("budget_room")
_LOCK: Final = statement("budget_lock")
_GRANT: Final = _ROOM + statement("budget_grant")
_CUT: Final = _ROOM + statement("budget_cut")
_LOOK: Final = _ROOM + statement("budget_look")
_GIVE_BACK: Final = statement("budget_give_back")


class Terms(Struct, frozen=True, kw_only=True):
    """What grants are held against.

    Attributes:
        limits: calls a minute, by call class; `brand` is the one over all, and the one of a class
            that is not named.
        shares: what part of each limit is a purpose's own.
        patient: purposes that are paced evenly, and borrow less than all of what is free.
        minute: seconds of the platform's minute; a test may have a shorter one.
    """

    limits: Mapping[str, int]
    shares: Mapping[Purpose, float]
    patient: frozenset[Purpose]
    minute: float = 60.0

    def limit(self, call_class: str) -> int:
        """Calls of this class that the platform takes in a minute."""
        return self.limits.get(call_class, self.limits[BRAND])


class Ask(Struct, frozen=True, kw_only=True):
    """A process asks for calls."""

    call_class: str
    purpose: Purpose
    n: int
    wanted: int
    """How many were asked of the process since it asked last, those it had to deny among them."""


class Grant(Struct, frozen=True):
    """What an ask has brought."""

    n: int
    number: int
    """The half second of its making."""
    wait: float | None
    """Seconds until asking again may bring more; None: all that was asked for was granted."""


class Unspent(Struct, frozen=True, kw_only=True):
    """Calls that were granted and not made."""

    call_class: str
    purpose: Purpose
    number: int
    n: int


class Cut(Struct, frozen=True, kw_only=True):
    """The platform has refused a call as one too many."""

    call_class: str
    retry_after: float | None
    """Seconds for which it wants no more of them; None: it did not say."""


class Room(Struct, frozen=True, kw_only=True):
    """How a purpose stands in a call class."""

    call_class: str
    purpose: Purpose
    per_minute: int
    """The limit."""
    factor: float
    """What part of the limit 429s have left."""
    most: int
    """Calls that are granted in a minute at the most, with all taken off."""
    closed_until: datetime | None
    share: float
    granted: int
    """In the last minute."""
    wanted: int
    """In the last minute."""
    room: int
    """Calls that this purpose would be granted now."""


class BudgetStore:
    """The verbs of the budget; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def exchange(
        self,
        terms: Terms,
        asks: Sequence[Ask],
        unspent: Sequence[Unspent] = (),
        cuts: Sequence[Cut] = (),
    ) -> list[Grant]:
        """Take calls back, slow classes down, and grant calls, in this order.

        Args:
            terms: what grants are held against.
            asks: the most urgent first; what one takes is gone for the next.
            unspent: grants that were not used.
            cuts: classes of which a call was refused as one too many.

        Returns:
            A grant for each ask, in order.

        Raises:
            DatabaseBusy: whether anything was done is not known.
        """
        cursors: list[AsyncCursor[DictRow]] = []
        async with (
            self._connections.path() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            await connection.execute(_LOCK, prepare=True)
            for given_back in unspent:
                await connection.execute(
                    _GIVE_BACK, msgspec.structs.asdict(given_back), prepare=True
                )
            for cut in cuts:
                particulars = {"retry_after": cut.retry_after, "news": terms.minute / 12}
                given = _given(terms, [cut.call_class]) | particulars
                await connection.execute(_CUT, given, prepare=True)
            for ask in asks:
                given = _given(terms, [ask.call_class, BRAND]) | msgspec.structs.asdict(ask)
                cursors.append(await connection.execute(_GRANT, given, prepare=True))
        rows = [await cursor.fetchone() for cursor in cursors]
        return [msgspec.convert(row, Grant) for row in rows]

    async def look(self, terms: Terms, call_classes: Sequence[str]) -> list[Room]:
        """How every purpose stands in these call classes and in the brand, now."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(_LOOK, _given(terms, [*call_classes, BRAND]))
            return [msgspec.convert(row, Room) for row in await cursor.fetchall()]


def _given(terms: Terms, call_classes: Sequence[str]) -> dict[str, object]:
    return {
        "classes": list(call_classes),
        "limits": [terms.limit(call_class) for call_class in call_classes],
        "purposes": [purpose.value for purpose in terms.shares],
        "shares": list(terms.shares.values()),
        "patient": [purpose.value for purpose in terms.patient],
        "minute": terms.minute,
    }
