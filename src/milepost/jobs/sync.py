"""Job `sync`: registrants in from their source, and what the platform has of them in line with it.

Its parts, in this order; each is gone on with where it stood when a process dies:

1. the **intake**: what the source says of registrants is written down;
2. **opt-outs** are pulled. They are never undone, and nothing that is sent could opt anybody in;
3. **contacts**: everybody who owns one gets it, in the home list (`home_list.py`, `filling.py`);
4. **updates**: what has changed of the others is told (`updating.py`);
5. **memberships**: the lists that are to hold everybody ahead of events are filled (`ahead.py`).

A part that needs a person does not keep the others from running: the run stops at its end, with
what is to be decided.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from milepost.errors import DatabaseError, MilepostError, UpstreamError
from milepost.jobs.ahead import AheadList
from milepost.jobs.directory import bind, home_list
from milepost.jobs.filling import (
    MOST_RESTARTS,
    Counts,
    Filling,
    ListGone,
    OwnerT,
    Target,
    patiently,
    stopped,
)
from milepost.jobs.home_list import HomeList
from milepost.jobs.intake import Intake, sweep
from milepost.jobs.run import NeedsAPerson, Run
from milepost.jobs.updating import Updating
from milepost.model import Deployment
from milepost.routes import merges
from milepost.store import Store
from milepost.store.memberships import AheadSlot
from milepost.store.runs import Finding, TakenAway
from milepost.upstream import (
    FoundContact,
    NotFound,
    ReadPage,
    Refused,
    Throttled,
    Unauthorized,
    Upstream,
)

log = logging.getLogger(__name__)

HOME_LIST_SECONDS: Final = 1.0
"""Between looks whether the home list may be made: whoever died of it leaves a lease behind."""


class Sync:
    """Brings registrants in, and what the platform has of them in line.

    Args:
        store: knows the registrants.
        upstream: has their contacts.
        directory_id: the directory that is wanted; None: the account's default one.
        intake: where registrants come in from; None: from nowhere but the API.
    """

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        directory_id: str | None,
        intake: Intake | None = None,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._directory_id = directory_id
        self._intake = intake

    async def run_once(self, run: Run) -> Counts:
        """Do all of it. See `Job`."""
        return await _Course(
            run, self._store, self._upstream, self._directory_id, self._intake
        ).run()


class _Whole(Struct, kw_only=True, omit_defaults=True):
    """Where a run stands: which parts are done, and how far the one that it is at."""

    done: list[str] = []
    asks: list[str] = []
    """What a person must decide."""
    part: str | None = None
    at: Any = None
    """In the part's own words."""


class _OptOuts(Struct, kw_only=True, omit_defaults=True):
    """How far opt-outs are pulled."""

    cursor: str | None = None
    done: int = 0


class _Stopped(Exception):
    """The run is to stop before all is done."""


class _Course:
    """One run."""

    def __init__(
        self,
        run: Run,
        store: Store,
        upstream: Upstream,
        directory_id: str | None,
        intake: Intake | None,
    ) -> None:
        self._run = run
        self._store = store
        self._contacts = store.contacts.under(run.record)
        self._upstream = upstream
        self._wanted = directory_id
        self._intake = intake
        self._whole = msgspec.convert(run.position or {}, _Whole)
        known = {name: run.counts.get(name, 0) for name in Counts.__struct_fields__}
        self._counts = msgspec.convert(known, Counts)
        self._merges = False
        self._deployment: Deployment

    async def run(self) -> Counts:
        """Go through all parts.

        Raises:
            NeedsAPerson: at the end, if one of them does.
            And as `Job.run_once`.
        """
        try:
            if self._run.position is None:
                # A run that ended amid a listing has left it behind.
                await self._contacts.end_listing()
            if self._intake is not None:
                await self._part("intake", self._take_in)
            else:
                await sweep(self._store)
            if self._run.options.get("dry_run"):
                return self._told()
            await self._bind()
            await self._part("opt-outs", self._pull_opt_outs)
            await self._part("contacts", self._fill_home_list)
            await self._part("updates", self._update)
            await self._part("contacts again", self._look_again)
            # Where nothing merges contacts, an add in doubt that is made again doubles a person,
            # and whether it was made is known of the home list alone.
            slots = await self._store.memberships.slots() if self._merges else []
            for slot in slots:
                await self._part(f"slot {slot.slot_id}", partial(self._fill_ahead, slot))
        except _Stopped:
            return self._counts
        return self._told()

    def _told(self) -> Counts:
        if self._whole.asks:
            raise NeedsAPerson(" ".join(self._whole.asks))
        return self._counts

    async def _part(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part, if it is not done already, from where it stands."""
        if name in self._whole.done:
            return
        self._check_stopping()
        whole = self._whole
        stood = whole.at if whole.part == name else None
        whole.part = name

        def frame(position: object) -> object:
            whole.at = position
            return msgspec.to_builtins(whole)

        with self._run.part(stood, frame):
            try:
                await work()
            except NeedsAPerson as error:
                if str(error) not in whole.asks:
                    whole.asks.append(str(error))
        self._check_stopping()
        was_idle = whole.at is None
        whole.done.append(name)
        whole.part = whole.at = None
        if not was_idle:
            at = self._run.progress
            await self._run.commit(
                msgspec.to_builtins(whole),
                stage=at.stage or name,
                done=at.done,
                counts=self._counts,
            )

    def _check_stopping(self) -> None:
        if self._run.stopping.is_set():
            raise _Stopped

    # --- the parts ------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        assert self._intake is not None  # noqa: S101  (who calls this has looked)
        try:
            await self._intake.run(self._run)
        except (NeedsAPerson, TakenAway, UpstreamError, DatabaseError):
            raise
        except MilepostError as error:
            raise NeedsAPerson(str(error)) from error

    async def _bind(self) -> None:
        self._deployment = await bind(self._store, self._upstream, self._wanted)
        account = await self._store.capabilities.all()
        self._merges = merges(self._deployment, account)

    async def _pull_opt_outs(self, restarts: int = 0) -> None:
        run = self._run
        at = msgspec.convert(run.position, _OptOuts) if run.position else _OptOuts()

        def read(cursor: str | None) -> AsyncIterator[ReadPage[FoundContact]]:
            return self._upstream.opted_out_pages(self._directory_id, cursor=cursor)

        try:
            async for page in patiently(run, read, at.cursor):
                self._counts.opted_out += await self._contacts.opt_out(
                    [one.contact_id for one in page.elements],
                    [one.ref for one in page.elements if one.ref is not None],
                )
                at.cursor = page.cursor
                at.done += len(page.elements)
                if at.cursor is not None:
                    position = msgspec.to_builtins(at)
                    await run.commit(position, stage="opt-outs", done=at.done, counts=self._counts)
                self._check_stopping()
        except (Throttled, Unauthorized):
            raise
        except Refused as error:
            if at.cursor is None or restarts == MOST_RESTARTS:
                raise NeedsAPerson(f"opt-outs cannot be pulled: {error}") from error
            # The platform does not know the cursor any more.
            run.position = None
            await self._pull_opt_outs(restarts + 1)

    async def _fill_home_list(self) -> None:
        while True:
            list_id = await self._home_list()
            home = HomeList(
                self._contacts,
                self._upstream,
                self._directory_id,
                list_id,
                self._counts,
                merges=self._merges,
                run=self._run,
                ask=self._whole.asks.append,
            )
            try:
                await self._fill(home)
            except ListGone as error:
                if not self._run.options.get("accept_losses"):
                    await self._contacts.note_listed(None)
                    raise NeedsAPerson(
                        f"the home list: {error}; to have another one made, and everybody put into "
                        "it: milepost run sync --accept-losses"
                    ) from error
                await home.forget_everybody(await self._contacts.begin_listing())
                self._check_stopping()
                await self._store.deployment.forget_home_list(list_id)
                self._deployment = await self._store.deployment.load()
                self._run.position = None
            else:
                return

    async def _update(self) -> None:
        updating = Updating(
            self._contacts,
            self._upstream,
            self._directory_id,
            await self._home_list(),
            self._counts,
            merges=self._merges,
        )
        try:
            await updating.run(self._run)
        except NotFound:
            await self._contacts.note_listed(None)  # the comparison tells of it

    async def _look_again(self) -> None:
        """Whom an update did not meet, a comparison notices."""
        outlook = await self._contacts.outlook(merges=self._merges)
        if outlook.listed and outlook.since_listed is None:
            await self._fill_home_list()

    async def _fill_ahead(self, slot: AheadSlot) -> None:
        ahead = AheadList(
            self._store,
            self._upstream,
            self._directory_id,
            slot,
            self._counts,
            run=self._run,
        )
        try:
            await self._fill(ahead)
        except ListGone as error:
            log.error("%s: %s", ahead.name, error)  # noqa: TRY400  (nothing crashed)
            gone = Finding(reason=str(error), source=f"milestone {slot.milestone}")
            await self._run.commit(
                None, stage=ahead.name, done=0, counts=self._counts, findings=[gone]
            )

    async def _fill(self, target: Target[OwnerT]) -> None:
        filling = Filling(
            self._upstream,
            self._directory_id,
            target,
            self._counts,
            criteria=self._deployment.dedup_criteria or frozenset(),
            contacts=self._contacts,
        )
        await filling.run(self._run)

    # --- the home list --------------------------------------------------------------------------

    @property
    def _directory_id(self) -> str:
        return self._deployment.directory_id or ""

    async def _home_list(self) -> str:
        """The home list's id; it is made if there is none."""
        if self._deployment.home_list_id is None:
            while await home_list(self._store, self._upstream) is None:
                if await stopped(self._run, HOME_LIST_SECONDS):
                    raise _Stopped
            self._deployment = await self._store.deployment.load()
            return await self._home_list()
        return self._deployment.home_list_id
