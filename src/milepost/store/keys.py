"""API keys: kept as hashes, checked in constant time, remembered for a few seconds."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from typing import Final

from sqlalchemy import func, insert, select

from milepost.model import Caller, Scope
from milepost.store import tables
from milepost.store.connections import Connections
from milepost.store.remembering import Remembered

_SHAPE: Final = re.compile(r"mp_([0-9a-f]{8})_[0-9a-f]{64}")
_UNKNOWN: Final = hashlib.sha256(b"no such key").digest()


class KeyStore:
    """The verbs of API keys, which read `mp_<id>_<secret>`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._callers = Remembered(self._look_up)  # wrong keys, too: they are asked for as often
        self._holders = Remembered(self._read)

    async def create(self, name: str, scopes: Collection[Scope]) -> tuple[str, str]:
        """Make a key and return its id and the key itself, which is shown this once."""
        key_id = secrets.token_hex(4)
        secret = secrets.token_hex(32)
        key = f"mp_{key_id}_{secret}"
        async with self._connections.transaction() as connection:
            await connection.execute(
                insert(tables.api_keys).values(
                    id=key_id,
                    name=name,
                    secret_sha256=_digest(key),
                    scopes=sorted(scope.value for scope in scopes),
                    created_at=func.milepost_now(),
                )
            )
        return key_id, key

    async def caller(self, key: str) -> Caller | None:
        """Who owns this key; None when nobody does or it was revoked.

        Unknown ids cost the same work as known ones with a wrong secret.
        """
        shape = _SHAPE.fullmatch(key)
        if shape is None:
            return None
        return await self._callers.get((shape[1], _digest(key)))

    async def holder(self, key_id: str) -> tuple[Caller, bytes] | None:
        """Who owns the key with this id, and the key's hash; None when it is not in force.

        For somebody who proves in another way that it is theirs.
        """
        return await self._holders.get(key_id)

    async def _look_up(self, asked: tuple[str, bytes]) -> Caller | None:
        key_id, digest = asked
        known = await self._read(key_id)
        matches = hmac.compare_digest(known[1] if known else _UNKNOWN, digest)
        return known[0] if known and matches else None

    async def _read(self, key_id: str) -> tuple[Caller, bytes] | None:
        keys = tables.api_keys
        async with self._connections.transaction() as connection:
            row = (
                await connection.execute(
                    select(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
                )
            ).one_or_none()
        if row is None:
            return None
        scopes = frozenset(Scope(scope) for scope in row.scopes)
        return Caller(key_id=row.id, name=row.name, scopes=scopes), row.secret_sha256


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
