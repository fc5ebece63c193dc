"""How a batch of transactions and its distribution are made: what route `transaction` stands on.

Four calls: a transaction of our probe, who is in the home list; a batch that holds it; a
distribution on the batch; and the list of that distribution's links, from which its template is
learnt. Nothing but the probe is in the batch then.

What a call has made is written down before the next one. A transaction whose id was lost is found
among the probe's by the name of its slot, which is in its data. A distribution is found by its date
and by the probe's link in it. A batch has no name, and none can be asked for: one whose id was lost
stays at the platform, with nothing in it but the probe's transaction.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from milepost import failpoints
from milepost.errors import MilepostError
from milepost.jobs.directory import home_list
from milepost.payload import REFERENCE_FIELD
from milepost.routes import find_or_add
from milepost.store import Store
from milepost.store.pools import Making
from milepost.upstream import ContactFields, TransactionFields, UnknownOutcome, Upstream

CALIBRATION: Final = "milepost calibration"
"""In the probe's transactions it stands in place of a link's reference, before the slot's name."""


class HomeListBusy(MilepostError):
    """Another process makes the home list; it will be there in a moment."""


class Batches:
    """Makes batches.

    Args:
        store: knows what is there of each.
        upstream: makes them.
        directory_id: where.
    """

    def __init__(self, store: Store, upstream: Upstream, directory_id: str) -> None:
        self._store = store
        self._upstream = upstream
        self._directory_id = directory_id

    async def make(self, making: Making, probe: ContactFields) -> Making:
        """Make what is not there yet of a batch and its distribution; returns it as it is then.

        Raises:
            HomeListBusy: there is no home list yet.
            CallFailed: as the client's verbs.
            TakenOver: somebody else makes it by now.
        """
        pools, again = self._store.pools, making.attempt > 1
        if making.probe_lookup_id is None:
            made = await self._transaction(making, probe, again=again)
            making = await pools.note_probe(making, *made)
        if making.batch_id is None:
            batch_id = await self._upstream.create_batch(
                self._directory_id, [making.probe_lookup_id or ""]
            )
            failpoints.reach("provisioned", f"batch of {making.name}")
            making = await pools.note_batch(making, batch_id)
        if making.distribution_id is None:
            distribution_id = await self._find_distribution(making) if again else None
            if distribution_id is None:
                distribution_id = await self._upstream.create_batch_distribution(
                    making.survey_id, making.batch_id or "", making.description, making.expires_at
                )
                failpoints.reach("provisioned", f"distribution of {making.name}")
            making = await pools.note_distribution(making, distribution_id)
        return making

    async def _transaction(
        self, making: Making, probe: ContactFields, *, again: bool
    ) -> tuple[str, str]:
        """Our probe in the home list, and a transaction of it; their ids."""
        list_id = await home_list(self._store, self._upstream)
        if list_id is None:
            raise HomeListBusy("another process makes the home list")
        contact_id, _ = await find_or_add(self._upstream, self._directory_id, list_id, probe)
        name = f"{CALIBRATION} {making.list_name}"
        if again:
            mine = self._upstream.contact_transactions(self._directory_id, contact_id)
            async for each in mine:
                if each.data.get(REFERENCE_FIELD) == name:
                    return contact_id, each.transaction_id
        fields = TransactionFields(
            contact_id=contact_id,
            list_id=list_id,
            at=datetime.now(UTC),
            data={REFERENCE_FIELD: name},
        )
        made = await self._upstream.create_transactions(self._directory_id, {name: fields})
        failpoints.reach("provisioned", f"probe of {making.name}")
        if name not in made.created:
            saying = "the probe's transaction was not made, as far as the answer tells"
            raise UnknownOutcome("create_transactions", saying, "no-result")
        return contact_id, made.created[name]

    async def _find_distribution(self, making: Making) -> str | None:
        """What an earlier attempt may have made: unknown, on no list, of its date, of our probe."""
        found = [
            distribution.distribution_id
            async for distribution in self._upstream.distributions(making.survey_id)
            if distribution.list_id is None and distribution.expires_at == making.expires_at
        ]
        known = await self._store.pools.known_distributions(found)
        for distribution_id in found:
            if distribution_id in known:
                continue
            links = self._upstream.distribution_links(distribution_id, making.survey_id)
            async for listed in links:
                if listed.transaction_id == making.probe_lookup_id:
                    return distribution_id
        return None
