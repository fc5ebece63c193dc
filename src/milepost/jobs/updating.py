"""Telling the platform what has changed of people whose contacts it has.

They are known by id, so nothing has to be read back. Where the directory recognises people, an
import of them changes the contacts that are there, at two calls for each thousand; a few, and all
where it does not, are changed one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct

from milepost.jobs.filling import (
    FEW,
    IMPORTED_AT_ONCE,
    PAGE,
    Counts,
    Imports,
    Single,
    one_by_one,
    paced,
)
from milepost.jobs.run import Run
from milepost.routes import contact_fields
from milepost.store.contacts import ContactStore, Owner
from milepost.store.registrants import CHUNK
from milepost.store.runs import Finding
from milepost.upstream import (
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Upstream,
)

log = logging.getLogger(__name__)

STAGE: Final = "contacts: updating"


class Position(Struct, kw_only=True):
    """Where it stands: up to this id of a registrant all were told."""

    after: int = 0
    done: int = 0
    total: int = 0


class Updating:
    """Tells the platform of changed registrants.

    Args:
        contacts: knows who has changed.
        upstream: is told.
        directory_id: of which directory.
        list_id: the home list, which they are in.
        counts: take what was done.
        merges: whether the platform knows a contact again that is added a second time.
    """

    def __init__(
        self,
        contacts: ContactStore,
        upstream: Upstream,
        directory_id: str,
        list_id: str,
        counts: Counts,
        *,
        merges: bool,
    ) -> None:
        self._contacts = contacts
        self._upstream = upstream
        self._directory_id = directory_id
        self._list_id = list_id
        self._imports = Imports(upstream, directory_id, list_id)
        self._counts = counts
        self._merges = merges

    async def run(self, run: Run) -> None:
        """Tell of all, from the run's position on, until that is done or the run is to stop.

        Somebody may be told of twice, where a process died in between; it changes nothing.

        Raises:
            UpstreamError, DatabaseBusy: it breaks off, and can be gone on with.
        """
        at = msgspec.convert(run.position, Position) if run.position else Position()
        if not run.position:
            at.total = await self._contacts.count_stale()
        is_bulk = self._merges and at.total > FEW
        while not run.stopping.is_set():
            owners = await self._read(at.after, IMPORTED_AT_ONCE if is_bulk else PAGE)
            if not owners:
                return
            if not (is_bulk and await self._imported(run, owners)):
                for first in range(0, len(owners), PAGE):
                    await self._tell(run, at, owners[first : first + PAGE])
            if run.stopping.is_set():
                return
            at.after = owners[-1].id
            at.done += len(owners)
            await self._commit(run, at)

    async def _read(self, after: int, limit: int) -> list[Owner]:
        owners: list[Owner] = []
        while len(owners) < limit:
            more = await self._contacts.stale(min(CHUNK, limit - len(owners)), after=after)
            if not more:
                break
            owners += more
            after = more[-1].id
        return owners

    async def _imported(self, run: Run, owners: Sequence[Owner]) -> bool:
        """Tell of them by an import; False: it does not say of whom it took, or took none."""
        try:
            progress = await self._imports.finished(run, await self._imports.begin(run, owners))
        except (Throttled, Unauthorized, Forbidden, NotFound):
            raise
        except Refused as error:
            log.warning("an import of changes is made one by one: %s", error)
            return False
        if progress is None:
            return True  # the run is to stop
        if progress.added:
            # Somebody was not there any more, and is again, under ids that nobody knows.
            await self._contacts.note_listed(None)
        if progress.failed:
            return False
        for first in range(0, len(owners), CHUNK):
            self._counts.updated += await self._contacts.note_told(owners[first : first + CHUNK])
        return True

    async def _tell(self, run: Run, at: Position, owners: Sequence[Owner]) -> None:
        singles = [Single(each.id, each.ref, partial(self._change, run, each)) for each in owners]
        seen = await one_by_one(singles)
        if seen.futile is not None:
            raise seen.futile
        self._counts.failed += len(seen.findings)
        await self._commit(run, at, seen.findings)

    async def _change(self, run: Run, owner: Owner) -> bool:
        fields = contact_fields(owner.ref, owner.details)
        try:
            await paced(
                run,
                lambda: self._upstream.update_list_contact(
                    self._directory_id, self._list_id, owner.contact_id or "", fields
                ),
            )
        except NotFound:
            # The contact is not in the list any more: the list is to be compared.
            await self._contacts.note_listed(None)
            return False
        is_told = await self._contacts.note_told([owner]) == 1
        self._counts.updated += is_told
        return is_told

    async def _commit(self, run: Run, at: Position, findings: Sequence[Finding] = ()) -> None:
        await run.commit(
            msgspec.to_builtins(at),
            stage=STAGE,
            done=at.done,
            total=at.total,
            counts=self._counts,
            findings=findings,
        )
