"""Filling a mailing list: whoever is to be in it is brought in, in bulk or one by one.

In bulk takes three steps. *Import*: people go to the platform a thousand at a time, which tells no
ids. *List*: the platform's list is read back, page by page, into a table of our own. *Pair*: who
stands in it under a registrant's `ref` is theirs. That costs two calls for each thousand, and one
for each hundred of all who are in the list; so a few are added one by one, which costs a call each
and tells at once who was refused and why. The cheaper way is taken.

::

    decide ──▶ import ──▶ list ──▶ pair ──▶ compare ──▶ decide
       ├─────────────────▶ list           what earlier calls may have made, or others have done
       └─▶ one by one ──▶ report ──▶ end  who is still missing: tried once more, then told of

**Where it stands** is written down before each call that changes something and after each page, so
that a process may die anywhere. An import that is known to have begun is waited for. One whose
beginning is in doubt is never begun again before the list was read: where the platform does not
recognise people, a second one would double them.

A call for which the budget has nothing left, or which the platform throttles, is waited for; so
live events keep what is theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from milepost.errors import UpstreamError
from milepost.jobs.run import Run
from milepost.model import RegistrantDetails
from milepost.routes import StillUnknown, contact_fields
from milepost.store.contacts import ContactStore, ListedMember, Outlook, Owner, listed_key
from milepost.store.runs import Finding
from milepost.upstream import (
    BudgetSpent,
    CallFailed,
    Forbidden,
    ImportProgress,
    ListContact,
    NotFound,
    ReadPage,
    Refused,
    Throttled,
    Unauthorized,
    UnknownOutcome,
    Unreachable,
    Upstream,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
OwnerT = TypeVar("OwnerT", bound=Owner)

IMPORTED_AT_ONCE: Final = 1_000
"""Contacts of one import. So many are in use (observed), and 10,000 are unconfirmed; more would
save little, since reading the list back takes ten calls for a thousand."""

LISTED_AT_ONCE: Final = 100
"""Contacts on a page of a list (documented)."""

FEW: Final = 50
"""So many are added one by one in any case: an import has to be waited for, and does not say whom
it refused, nor why."""

MOST_SINGLY: Final = 1_000
"""So many whom an import left out are tried one by one: it takes minutes. More have one cause, and
it shows in these."""

ROUNDS: Final = 2
"""Imports of whoever is missing. What the second leaves out as well is no accident."""

MOST_RESTARTS: Final = 3
"""How often a listing begins anew because the platform does not know its cursor any more, and an
import is begun again after a lost answer."""

AT_ONCE: Final = 16
"""Calls that are out at the same time."""

PAGE: Final = 2 * AT_ONCE
"""Registrants claimed at once where each takes a call: also a page whose calls all end at their
deadline of 10 s, after two looks of as much each, is done when its lease of a minute ends."""

FIRST_POLL_SECONDS: Final = 1.0
LONGEST_POLL_SECONDS: Final = 30.0
IMPORT_SECONDS: Final = 3_600.0
"""Between looks whether an import is done, which double; and how long one may take before its run
is left for a later try, which looks on."""

PATIENCE_SECONDS: Final = 600.0
"""How long a call is waited for that the budget or the platform does not allow now. A minute brings
some again; who waits longer waits for a person, and the run is left for a later try."""

THROTTLED_SECONDS: Final = 5.0
"""Until a throttled call is tried again, where nobody says when."""

UNPAIRED: Final = "the platform took an import with this registrant, and does not list them"
DOUBLE: Final = "the platform lists two contacts with this ref; the first is used"

Step = Literal["decide", "import", "list", "pair", "compare", "singly", "report", "end"]


class ListGone(UpstreamError):
    """The platform does not know the list any more."""


class Unfinished(UpstreamError):
    """An import goes on at the platform for longer than it is waited for."""


class Counts(Struct, kw_only=True):
    """What a run of `sync` did with registrants at the platform."""

    opted_out: int = 0
    """They opted out there."""
    made: int = 0
    """They are in the home list, and were not."""
    updated: int = 0
    """Their contact was told what has changed."""
    moved: int = 0
    """They have another contact there than was known: somebody has merged or remade it."""
    lost: int = 0
    """They were in the home list, and are not any more: they are made anew."""
    memberships: int = 0
    """They are in the list of a slot ahead of events, and were not."""
    failed: int = 0
    """The platform did not take them, or it is not known whether it did."""
    unpaired: int = 0
    """An import took them, and the platform does not list them."""


class Single(NamedTuple):
    """A registrant who can be seen to by a call of their own."""

    id: int
    ref: str
    see_to: Callable[[], Awaitable[bool]]
    """Does it; False: somebody else has."""


class Compared(NamedTuple):
    """How far a list is compared with its listing."""

    behind: str | None
    """Whom there is behind this ref is to be compared yet; None: all is done."""
    findings: Sequence[Finding] = ()


class Target(Protocol[OwnerT]):
    """A mailing list, and who is to be in it.

    Attributes:
        name: What the run calls it.
        list_id: `CG_…`.
    """

    name: str
    list_id: str

    async def outlook(self) -> Outlook:
        """How it stands."""
        ...

    def is_to_be_read(self, outlook: Outlook) -> bool:
        """Whether it is to be read to its end before anybody is added.

        An earlier call may have put people into it, or too long ago it was compared.
        """
        ...

    async def chunk(self, after: int) -> tuple[list[OwnerT], int]:
        """Who is to be imported next, behind an id; and up to which id there is nobody else."""
        ...

    async def singles(self, limit: int, after: int, upto: int | None) -> tuple[list[Single], int]:
        """Who is to be added next, one by one, behind an id; and up to which id nobody else is."""
        ...

    async def missing(self, after: int) -> list[Owner]:
        """Who is missing behind an id."""
        ...

    async def opted_out(self, contacts: Sequence[str], refs: Sequence[str]) -> None:
        """These are listed as opted out."""
        ...

    async def take_over(self, refs: Sequence[str], told_at: datetime | None) -> None:
        """Take over how these stand in the listing."""
        ...

    async def not_imported(self, owners: Sequence[OwnerT]) -> None:
        """The import of these, whom `chunk` gave, was refused: it has brought in nobody."""
        ...

    async def compare(self, listing_began: datetime, after: str) -> Compared:
        """Compare some of what is known with the listing, which is complete.

        Args:
            listing_began: when.
            after: the ref up to which all is compared already.
        """
        ...

    async def looked_in_vain(self, refused: int) -> None:
        """The listing shows nobody who is missing still. It is said of a listing once, or never.

        Args:
            refused: so many were not taken by imports since the listing before.
        """
        ...


class Position(Struct, kw_only=True, omit_defaults=True):
    """Where the filling of a list stands."""

    step: Step = "decide"
    done: int = 0
    """Of this step."""
    rounds: int = 0
    is_listed: bool = False
    """The list was read to its end, in this run."""
    told_at: datetime | None = None
    """When this run began to tell the platform of people."""

    imported: int = 0
    """Up to this id of a registrant all were imported."""
    importing: int | None = None
    """Up to this id they are being imported; what is under way has no `import_id` while its
    beginning is in doubt."""
    import_id: str | None = None
    chunk: int = 0
    unread: int = 0
    """Contacts that were imported since the list was read, and how many of them were refused."""
    refused: int = 0
    restarts: int = 0

    then: Step = "decide"
    """After the listing."""
    cursor: str | None = None
    listed: int = 0
    listing_began: datetime | None = None
    paired: str = ""
    """Up to this ref the listing is paired."""
    compared: str = ""
    """And up to this one what is known is compared with it."""

    added: int = 0
    """Up to this id all were tried one by one."""
    upto: int | None = None
    """And only up to this one: an import of them was refused."""
    left: int | None = None
    """And only so many more."""


def calls_in_bulk(people: int, listed: int) -> int:
    """The calls that it takes to import people into a list that holds others, and read it back."""
    imports = -(-people // IMPORTED_AT_ONCE)
    pages = -(-(listed + people) // LISTED_AT_ONCE)
    return 2 * imports + pages


def is_bulk(people: int, listed: int) -> bool:
    """Whether it is cheaper to import people than to add them one by one."""
    return people > max(FEW, calls_in_bulk(people, listed))


class Seen(NamedTuple):
    """How a page of single calls ended."""

    findings: list[Finding]
    """Who could not be seen to, and why."""
    futile: CallFailed | StillUnknown | None
    """Why more calls would end as these did."""


async def one_by_one(singles: Sequence[Single]) -> Seen:
    """See to a page of registrants, some at a time.

    Raises:
        DatabaseBusy: what became of a call could not be written down.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def see_to(single: Single) -> None:
        async with gate:
            await single.see_to()

    # All of them end by themselves, whatever happens to one: a call that is cut off may have been
    # accepted.
    outcomes = await asyncio.gather(*(see_to(each) for each in singles), return_exceptions=True)
    failed: list[tuple[Single, CallFailed | StillUnknown]] = []
    for single, outcome in zip(singles, outcomes, strict=True):
        if isinstance(outcome, CallFailed | StillUnknown):
            failed.append((single, outcome))
        elif outcome is not None:
            raise outcome
    findings = [Finding(reason=str(error), ref=single.ref) for single, error in failed]
    return Seen(findings, _futile([error for _, error in failed], len(singles)))


def _futile(
    errors: Sequence[CallFailed | StillUnknown], tried: int
) -> CallFailed | StillUnknown | None:
    """Why more calls would end as these did, if they would: and not over one person's data."""
    for error in errors:
        if isinstance(error, Throttled | Unauthorized | Forbidden | NotFound):
            return error
    passing = [error for error in errors if not isinstance(error, Refused | StillUnknown)]
    return passing[0] if passing and len(errors) == tried else None


async def paced(run: Run, call: Callable[[], Awaitable[T]]) -> T:
    """Make a call; while there is none left for it, wait.

    Raises:
        Throttled: it was in vain for `PATIENCE_SECONDS`, or the run is to stop, or the platform is
            away.
        And as the call.
    """
    waiting = _Patience(run)
    while True:
        try:
            return await call()
        except Throttled as error:
            await waiting.out(error)


async def patiently(
    run: Run, read: Callable[[str | None], AsyncIterator[ReadPage[T]]], cursor: str | None
) -> AsyncIterator[ReadPage[T]]:
    """Read a list page by page; while there is no call left for the next one, wait.

    Args:
        run: what it is for.
        read: reads from a cursor on.
        cursor: where to begin.

    Raises:
        As `paced`, and as `read`.
    """
    waiting = _Patience(run)
    while True:
        try:
            async for page in read(cursor):
                cursor = page.cursor
                waiting = _Patience(run)
                yield page
        except Throttled as error:
            await waiting.out(error)
        else:
            return


class _Patience:
    """How long one thing has been waited for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._until = asyncio.get_running_loop().time() + PATIENCE_SECONDS

    async def out(self, error: Throttled) -> None:
        """Wait until it may be tried again; raises the error where that takes too long."""
        if isinstance(error, BudgetSpent) and error.rule == "upstream-away":
            raise error  # that is no matter of calls
        seconds = error.retry_after or THROTTLED_SECONDS
        if asyncio.get_running_loop().time() + seconds > self._until:
            raise error
        if await stopped(self._run, seconds):
            raise error


async def stopped(run: Run, seconds: float) -> bool:
    """Wait for some seconds; True: the run is to stop."""
    with suppress(TimeoutError):
        await asyncio.wait_for(run.stopping.wait(), seconds)
    return run.stopping.is_set()


class Imports:
    """Imports into one list, which has one at a time."""

    def __init__(self, upstream: Upstream, directory_id: str, list_id: str) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._list_id = list_id

    async def begin(self, run: Run, owners: Sequence[Owner]) -> str:
        """Begin an import, once the list has no other; returns its id.

        Raises:
            As `paced` and `Upstream.start_import`.
        """
        contacts = [contact_fields(owner.ref, owner.details) for owner in owners]
        pauses = _Pauses()
        while True:
            try:
                return await paced(
                    run,
                    lambda: self._upstream.start_import(
                        self._directory_id, self._list_id, contacts
                    ),
                )
            except Refused as error:
                # That a list which has an import says so by this status is the simulator's idea.
                is_busy = error.http_status == HTTPStatus.CONFLICT
                if not is_busy or pauses.are_over or await stopped(run, pauses.next()):
                    raise

    async def finished(self, run: Run, import_id: str) -> ImportProgress | None:
        """Wait until nothing more will come of an import; None: the run is to stop.

        Raises:
            Unfinished: it takes too long; somebody may go on waiting.
            As `paced` and `Upstream.import_progress`.
        """
        pauses = _Pauses()
        while True:
            progress = await paced(
                run,
                lambda: self._upstream.import_progress(
                    self._directory_id, self._list_id, import_id
                ),
            )
            if progress.done:
                return progress
            if pauses.are_over:
                raise Unfinished(f"import {import_id} is not done after {IMPORT_SECONDS:.0f} s")
            if await stopped(run, pauses.next()):
                return None


class _Pauses:
    """Pauses that double, up to a longest one, for so long in all."""

    def __init__(self) -> None:
        self._next = FIRST_POLL_SECONDS
        self._waited = 0.0

    @property
    def are_over(self) -> bool:
        return self._waited >= IMPORT_SECONDS

    def next(self) -> float:
        seconds = self._next
        self._waited += seconds
        self._next = min(2 * seconds, LONGEST_POLL_SECONDS)
        return seconds


class Filling(Generic[OwnerT]):
    """Fills one mailing list.

    Args:
        upstream: where it is.
        directory_id: of which directory.
        criteria: by which the directory recognises a contact.
        target: the list.
        counts: take what was done.
        contacts: keeps the listing.
    """

    def __init__(
        self,
        upstream: Upstream,
        directory_id: str,
        target: Target[OwnerT],
        counts: Counts,
        *,
        criteria: frozenset[str],
        contacts: ContactStore,
    ) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._target = target
        self._counts = counts
        self._criteria = criteria
        self._contacts = contacts
        self._imports = Imports(upstream, directory_id, target.list_id)

    async def run(self, run: Run) -> None:
        """Fill it, from the run's position on, until that is done or the run is to stop.

        Raises:
            ListGone: the list is not there any more.
            UpstreamError, DatabaseBusy: it breaks off, and can be gone on with.
        """
        at = msgspec.convert(run.position, Position) if run.position else Position()
        while at.step != "end" and not run.stopping.is_set():
            match at.step:
                case "decide":
                    await self._decide(run, at)
                case "import":
                    await self._import(run, at)
                case "list":
                    await self._list(run, at)
                case "pair":
                    await self._pair(run, at)
                case "compare":
                    await self._compare(run, at)
                case "singly":
                    await self._singly(run, at)
                case "report":
                    await self._report(run, at)

    # --- deciding -------------------------------------------------------------------------------

    async def _decide(self, run: Run, at: Position) -> None:
        outlook = await self._target.outlook()
        if not at.is_listed and self._target.is_to_be_read(outlook):
            await self._begin_listing(run, at, "decide", outlook.listed)
            return
        if not outlook.missing:
            at.step = "end"
            return
        at.told_at = at.told_at or outlook.now
        if at.rounds < ROUNDS and is_bulk(outlook.addable, outlook.listed):
            at.imported = 0
            await self._begin(run, at, "import", outlook.addable)
        else:
            at.added, at.upto = 0, None
            at.left = MOST_SINGLY if at.rounds else None
            await self._begin(run, at, "singly", outlook.missing)

    # --- in bulk --------------------------------------------------------------------------------

    async def _import(self, run: Run, at: Position) -> None:
        if at.import_id is not None:
            try:
                progress = await self._imports.finished(run, at.import_id)
            except NotFound:
                at.import_id = None
                await self._ask_for_the_import(run, at)
                return
            if progress is not None:
                at.unread += at.chunk
                at.refused += progress.failed
                at.import_id = None
                await self._imported(run, at)
        elif at.importing is not None:
            await self._ask_for_the_import(run, at)
        else:
            await self._import_next(run, at)

    async def _imported(self, run: Run, at: Position) -> None:
        at.imported, at.importing = at.importing or at.imported, None
        at.done += at.chunk
        at.restarts = 0
        await self._commit(run, at)

    async def _import_next(self, run: Run, at: Position) -> None:
        owners: list[OwnerT] = []
        upto = at.imported
        while len(owners) < IMPORTED_AT_ONCE:
            more, upto = await self._target.chunk(upto)
            owners += more
            if not more:
                break
        if not owners:
            at.rounds += 1
            if at.unread:
                await self._begin_listing(run, at, "decide", run.progress.total)
            else:
                at.step = "decide"
            return
        at.importing, at.chunk = owners[-1].id, len(owners)
        await self._commit(run, at)
        try:
            at.import_id = await self._imports.begin(run, owners)
        except UnknownOutcome as error:
            log.warning("an import into %s: %s", self._target.name, error)
            await self._ask_for_the_import(run, at)
        except (Refused, Unreachable) as error:
            # Where another import is under way, it may be one of ours with these people in it.
            if error.http_status != HTTPStatus.CONFLICT:
                await self._target.not_imported(owners)
            await self._import_refused(run, at, error)
        else:
            await self._commit(run, at)

    async def _import_refused(self, run: Run, at: Position, error: Refused | Unreachable) -> None:
        """Leave it for later, look whether the list is there, or do without an import."""
        if isinstance(error, Throttled | Unauthorized | Unreachable):
            at.importing = None
            await self._commit(run, at)
            raise error
        if isinstance(error, NotFound):
            log.warning("an import into %s: %s", self._target.name, error)
            await self._ask_for_the_import(run, at)
        else:
            log.warning("an import into %s is made one by one: %s", self._target.name, error)
            await self._add_this_chunk(run, at)

    async def _ask_for_the_import(self, run: Run, at: Position) -> None:
        """Read the list before an import of which it is not known whether it has begun.

        Who is in the list by now need not be imported again, and a list that is gone shows itself.
        """
        at.restarts += 1
        if at.restarts > MOST_RESTARTS:
            await self._add_this_chunk(run, at)
            return
        at.importing = None
        await self._begin_listing(run, at, "import", run.progress.total)

    async def _add_this_chunk(self, run: Run, at: Position) -> None:
        """Its import is not to be had: one by one."""
        at.added, at.upto, at.left = at.imported, at.importing, None
        at.restarts = 0
        await self._begin(run, at, "singly", at.chunk)

    # --- the listing ----------------------------------------------------------------------------

    async def _begin_listing(self, run: Run, at: Position, then: Step, total: int | None) -> None:
        at.then, at.cursor, at.listed, at.listing_began = then, None, 0, None
        await self._begin(run, at, "list", total)

    async def _list(self, run: Run, at: Position) -> None:
        if at.listing_began is None:
            at.listing_began = await self._contacts.begin_listing()

        def read(cursor: str | None) -> AsyncIterator[ReadPage[ListContact]]:
            return self._upstream.list_contact_pages(
                self._directory_id, self._target.list_id, cursor=cursor
            )

        try:
            async for page in patiently(run, read, at.cursor):
                await self._take_page(page.elements, at)
                at.cursor = page.cursor
                if page.cursor is not None:
                    await self._commit(run, at)
                if run.stopping.is_set():
                    return
        except (Throttled, Unauthorized, Forbidden):
            raise
        except Refused as error:
            if at.cursor is None and isinstance(error, NotFound):
                raise ListGone(f"the platform does not know list {self._target.list_id}") from error
            await self._list_anew(run, at, error)
        else:
            at.paired = at.compared = ""
            await self._begin(run, at, "pair", at.listed)

    async def _list_anew(self, run: Run, at: Position, error: Refused) -> None:
        """The platform does not know the cursor any more."""
        at.restarts += 1
        if at.cursor is None or at.restarts > MOST_RESTARTS:
            raise error
        log.warning("the listing of %s begins anew: %s", self._target.name, error)
        await self._begin_listing(run, at, at.then, run.progress.total)

    async def _take_page(self, elements: Sequence[ListContact], at: Position) -> None:
        members = [self._member(one, at.listed + n) for n, one in enumerate(elements)]
        await self._contacts.write_page(self._target.list_id, members)
        gone = [one for one in elements if one.unsubscribed or one.list_unsubscribed]
        if gone:
            refs = [one.ref for one in gone if one.ref is not None]
            await self._target.opted_out([one.contact_id for one in gone], refs)
        at.listed += len(elements)
        at.done = at.listed

    def _member(self, listed: ListContact, number: int) -> ListedMember:
        details = RegistrantDetails(
            email=listed.email,
            first_name=listed.first_name,
            last_name=listed.last_name,
            phone=listed.phone,
        )
        ref, key = listed_key(listed.ref, details, self._criteria)
        return ListedMember(
            contact_id=listed.contact_id,
            lookup_id=listed.lookup_id,
            number=number,
            ref=ref,
            contact_key=key,
        )

    async def _pair(self, run: Run, at: Position) -> None:
        refs = await self._contacts.listed_refs(self._target.list_id, after=at.paired)
        if not refs:
            await self._begin(run, at, "compare", at.listed)
            return
        await self._target.take_over([listed.ref for listed in refs], at.told_at)
        at.paired = refs[-1].ref
        at.done += len(refs)
        doubles = [Finding(reason=DOUBLE, ref=each.ref) for each in refs if each.is_double]
        await self._commit(run, at, findings=doubles)

    async def _compare(self, run: Run, at: Position) -> None:
        if at.listing_began is not None:
            compared = await self._target.compare(at.listing_began, at.compared)
            if compared.behind is not None:
                at.compared = compared.behind
                await self._commit(run, at, findings=compared.findings)
                return
        refused = at.refused
        at.is_listed, at.unread, at.refused = True, 0, 0
        if at.then == "import":
            outlook = await self._target.outlook()
            await self._begin(run, at, "import", outlook.addable)
        else:
            await self._begin(run, at, at.then, None)
        # Only now: one listing must not count as several looks, which would double people, and
        # whoever takes the run over must not compare anybody with nothing.
        await self._target.looked_in_vain(refused)
        await self._contacts.end_listing()

    # --- one by one -----------------------------------------------------------------------------

    async def _singly(self, run: Run, at: Position) -> None:
        limit = PAGE if at.left is None else min(PAGE, at.left)
        singles: list[Single] = []
        upto = at.added
        if limit:
            singles, upto = await self._target.singles(limit, at.added, at.upto)
        if not singles:
            await self._end_singly(run, at)
            return
        seen = await one_by_one(singles)
        if seen.futile is not None:
            # Who was seen to is done; where to go on is written down as it was.
            await self._commit(run, at)
            if isinstance(seen.futile, NotFound) and not at.is_listed:
                await self._begin_listing(run, at, "decide", run.progress.total)
                return
            raise seen.futile
        at.added = upto
        at.done += len(singles)
        at.left = None if at.left is None else at.left - len(singles)
        self._counts.failed += len(seen.findings)
        await self._commit(run, at, findings=seen.findings)

    async def _end_singly(self, run: Run, at: Position) -> None:
        """Go on with the next import, or tell of those who are left."""
        if at.upto is not None:
            at.step, at.importing, at.upto = "import", at.upto, None
            await self._imported(run, at)
        else:
            at.step = "end" if at.left is None else "report"

    async def _report(self, run: Run, at: Position) -> None:
        owners = await self._target.missing(at.added)
        if not owners:
            at.step = "end"
            return
        at.added = owners[-1].id
        at.done += len(owners)
        self._counts.unpaired += len(owners)
        left = [Finding(reason=UNPAIRED, ref=owner.ref) for owner in owners]
        await self._commit(run, at, findings=left)

    # --- where it stands ------------------------------------------------------------------------

    async def _begin(self, run: Run, at: Position, step: Step, total: int | None) -> None:
        at.step, at.done = step, 0
        await self._commit(run, at, total=total)

    async def _commit(
        self,
        run: Run,
        at: Position,
        *,
        total: int | UnsetType | None = UNSET,
        findings: Sequence[Finding] = (),
    ) -> None:
        await run.commit(
            msgspec.to_builtins(at),
            stage=f"{self._target.name}: {_SAID[at.step]}",
            done=at.done,
            total=total,
            counts=self._counts,
            findings=findings,
        )


_SAID: Final[dict[Step, str]] = {
    "decide": "looking",
    "import": "importing",
    "list": "listing",
    "pair": "pairing",
    "compare": "comparing",
    "singly": "one by one",
    "report": "reporting",
    "end": "done",
}
