"""Postgres: what Milepost remembers. One verb is one transaction, and none outlives its verb.

Rows become the frozen objects of `model` here, and nothing outside sees a row. Start reading with
`links`, the ledger; `sql/` holds the statements that are contended, `tables` the schema.
"""

from __future__ import annotations

from typing import Self

from milepost.model import Deployment
from milepost.store.connections import Connections
from milepost.store.deployment import DeploymentStore
from milepost.store.keys import KeyStore
from milepost.store.links import LinkStore
from milepost.store.milestones import MilestoneStore
from milepost.store.pools import PoolStore
from milepost.store.registrants import RegistrantStore

__all__ = ["Store"]


class Store:
    """The verbs, by what they are about. Made with `await Store.open(url)`."""

    def __init__(self, connections: Connections, deployment: Deployment) -> None:
        self.connections = connections
        self.deployment = DeploymentStore(connections)
        self.keys = KeyStore(connections)
        self.links = LinkStore(connections, deployment.fingerprint_key)
        self.milestones = MilestoneStore(connections)
        self.pools = PoolStore(connections)
        self.registrants = RegistrantStore(connections)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to a migrated database.

        Raises:
            DatabaseError: Postgres cannot be reached.
        """
        connections = Connections(url)
        await connections.open()
        return cls(connections, await DeploymentStore(connections).load())

    async def close(self) -> None:
        """Close every connection."""
        await self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
