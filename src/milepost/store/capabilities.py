"""What this account has been proved to accept, as `milepost doctor --probe` has found it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from milepost.model import Capabilities, Capability, Fact
from milepost.store import tables
from milepost.store.connections import Connections, plain
from milepost.store.remembering import Remembered

_FACTS: Final = frozenset(fact.value for fact in Fact)


class CapabilityStore:
    """The verbs of capabilities; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: Remembered[None, Capabilities] = Remembered(lambda _: self.all())

    async def all(self) -> Capabilities:
        """What is known of every fact, as of now."""
        rows = tables.capabilities
        async with self._connections.transaction() as connection:
            found = (await connection.execute(select(rows))).mappings()
            # While versions change, one may have noted a fact that the other does not know.
            known = [
                msgspec.convert(plain(row), Capability) for row in found if row["fact"] in _FACTS
            ]
        return Capabilities({capability.fact: capability for capability in known})

    async def current(self) -> Capabilities:
        """The same, as of at most 5 s ago: for whoever asks for every link."""
        return await self._known.get(None)

    async def note(
        self, fact: Fact, *, holds: bool, figure: int | None = None, evidence: str
    ) -> None:
        """Write down what a probe has found; what was found before is forgotten.

        Args:
            fact: what was tried.
            holds: whether it is so.
            figure: the number that goes with it, in the unit that `Fact` says.
            evidence: what was seen, in a sentence for a person. No personal data, no links.
        """
        rows = tables.capabilities
        values: dict[str, Any] = {"holds": holds, "figure": figure, "evidence": evidence}
        values["probed_at"] = func.milepost_now()
        async with self._connections.transaction() as connection:
            await connection.execute(
                insert(rows)
                .values(fact=fact, **values)
                .on_conflict_do_update(index_elements=["fact"], set_=values)
            )
        self._known.forget(None)

    async def forget(self, fact: Fact) -> None:
        """Take a fact for never tried: it counts as true again."""
        rows = tables.capabilities
        async with self._connections.transaction() as connection:
            await connection.execute(delete(rows).where(rows.c.fact == fact))
        self._known.forget(None)
