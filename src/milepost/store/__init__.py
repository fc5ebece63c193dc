"""Postgres: what Milepost remembers. One verb is one transaction, and none outlives its verb.

Rows become the frozen objects of `model` here, and nothing outside sees a row. Start reading with
`links`, the ledger; `sql/` holds the statements that are contended, `tables` the schema.
"""

from __future__ import annotations

from typing import Self

from milepost.model import Deployment
from milepost.payload import naming_key
from milepost.store.budget import BudgetStore
from milepost.store.canaries import CanaryStore
from milepost.store.capabilities import CapabilityStore
from milepost.store.census import Census
from milepost.store.connections import Connections
from milepost.store.contacts import ContactStore
from milepost.store.deployment import DeploymentStore
from milepost.store.drift import DriftStore
from milepost.store.exports import ExportStore
from milepost.store.funnel import FunnelStore
from milepost.store.keys import KeyStore
from milepost.store.links import LinkStore
from milepost.store.memberships import MembershipStore
from milepost.store.messages import MessageStore
from milepost.store.milestones import MilestoneStore
from milepost.store.outcomes import OutcomeStore
from milepost.store.pools import PoolStore
from milepost.store.recovered import RecoveredStore
from milepost.store.registrants import RegistrantStore
from milepost.store.reminders import ReminderStore
from milepost.store.responses import ResponseStore
from milepost.store.runs import RunStore
from milepost.store.sources import SourceStore

__all__ = ["Store"]

LOCAL_URL = "http://127.0.0.1:8700"
"""Where a service on this machine answers, unless it is told otherwise."""


class Store:
    """The verbs, by what they are about. Made with `await Store.open(url)`."""

    def __init__(
        self,
        connections: Connections,
        deployment: Deployment,
        public_url: str,
        secret: bytes | None = None,
        *,
        secret_before: bytes | None = None,
        recovers: bool = False,
    ) -> None:
        self.connections = connections
        self.budget = BudgetStore(connections)
        self.canaries = CanaryStore(connections)
        self.capabilities = CapabilityStore(connections)
        self.census = Census(connections)
        self.contacts = ContactStore(connections)
        self.deployment = DeploymentStore(connections)
        self.drift = DriftStore(connections)
        self.exports = ExportStore(connections)
        self.funnel = FunnelStore(connections)
        self.keys = KeyStore(connections)
        self.links = LinkStore(
            connections,
            deployment.fingerprint_key,
            public_url,
            secret,
            secret_before=secret_before,
            recovers=recovers,
        )
        self.memberships = MembershipStore(connections)
        self.messages = MessageStore(connections)
        self.milestones = MilestoneStore(connections)
        self.outcomes = OutcomeStore(connections)
        self.pools = PoolStore(connections)
        self.recovered = RecoveredStore(
            connections, naming_key(secret or b"", deployment.fingerprint_key), public_url
        )
        self.registrants = RegistrantStore(connections)
        self.reminders = ReminderStore(connections)
        self.responses = ResponseStore(connections)
        self.runs = RunStore(connections)
        self.sources = SourceStore(connections)

    @classmethod
    async def open(
        cls,
        url: str,
        public_url: str = LOCAL_URL,
        *,
        secret: bytes | None = None,
        secret_before: bytes | None = None,
        recovers: bool = False,
    ) -> Self:
        """Connect to a migrated database.

        Args:
            url: the database.
            public_url: where short URLs lead.
            secret: signs the references that links of route `anonymous` carry; without it none is
                made. It also names links, as `secret_before` has done.
            secret_before: what it was before.
            recovers: the database was restored from a backup, and events come again.

        Raises:
            DatabaseError: Postgres cannot be reached.
        """
        connections = Connections(url)
        await connections.open()
        deployment = await DeploymentStore(connections).load()
        # A lost link holds its event's place and name: it is given back whenever that comes.
        lost = await RecoveredStore(connections, b"", public_url).lost()
        return cls(
            connections,
            deployment,
            public_url,
            secret,
            secret_before=secret_before,
            recovers=recovers or lost > 0,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
