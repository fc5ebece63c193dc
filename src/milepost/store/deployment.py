"""The one row that says what this deployment is."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from milepost.model import Deployment
from milepost.store import tables
from milepost.store.connections import Connections

LEASE_SECONDS: Final = 60
"""How long somebody may take to make the home list; looking for it pages through all lists."""

_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # no l, o, 0, 1: ids are read aloud


class DeploymentStore:
    """The verbs of the deployment row; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def load(self) -> Deployment:
        """The deployment, made on the first call ever."""
        row = tables.deployment
        first = insert(row).values(
            id="".join(secrets.choice(_ALPHABET) for _ in range(8)),
            fingerprint_key=secrets.token_bytes(32),
            created_at=func.milepost_now(),
        )
        async with self._connections.transaction() as connection:
            known = (await connection.execute(select(row))).one_or_none()
            if known is None:
                await connection.execute(first.on_conflict_do_nothing())
                known = (await connection.execute(select(row))).one()
        return Deployment(
            id=known.id,
            fingerprint_key=known.fingerprint_key,
            directory_id=known.directory_id,
            dedup_criteria=None
            if known.dedup_criteria is None
            else frozenset(known.dedup_criteria),
            home_list_id=known.home_list_id,
        )

    async def claim_home_list(self) -> int | None:
        """The right to make the home list, as the number of this attempt; None: somebody has it.

        From the second attempt on the list may be there already: look for it by its name.
        """
        row = tables.deployment
        now = func.milepost_now()
        async with self._connections.transaction() as connection:
            attempt: int | None = await connection.scalar(
                update(row)
                .where(
                    row.c.home_list_id.is_(None),
                    func.coalesce(row.c.home_lease_until <= now, True),
                )
                .values(
                    home_attempt=row.c.home_attempt + 1,
                    home_lease_until=now + timedelta(seconds=LEASE_SECONDS),
                )
                .returning(row.c.home_attempt)
            )
        return attempt

    async def note_home_list(self, list_id: str, attempt: int) -> bool:
        """Remember the home list that this attempt made or found; all who are in it are known.

        Returns:
            False when the attempt was taken over by another one and nothing was changed.
        """
        row = tables.deployment
        async with self._connections.transaction() as connection:
            changed = await connection.execute(
                update(row)
                .where(row.c.home_attempt == attempt)
                .values(
                    home_list_id=list_id, home_lease_until=None, home_listed_at=func.milepost_now()
                )
            )
        return changed.rowcount == 1

    async def forget_home_list(self, list_id: str) -> None:
        """The home list is not there any more: another one is to be made."""
        row = tables.deployment
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(row)
                .where(row.c.home_list_id == list_id)
                .values(home_list_id=None, home_lease_until=None)
            )
