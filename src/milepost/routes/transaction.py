"""Route `transaction`: an event becomes a transaction of its registrant's contact, in a batch.

Two calls, for as many events as there are: one makes the transactions, one puts them into the batch
on which the distribution stands. The URL is the distribution's template with the transaction's id
in it. Data are the transaction's own, so that a person may hold any number of links.

Claims are gathered as the store gathers what it writes (`GroupCommit`), in each process by itself:
while nothing is out a claim goes at once and alone; what comes while calls are out goes together
when they end, or after `COMPANY_SECONDS`, or as soon as a call is full. Under load a group waits
for company even when the calls of the one before have ended (`window`). How many are in one is
found out: one that is refused as a whole is made again in halves; later ones are as large as was
taken then, and grow again with each full one.

A call that is refused whatever is in it tells nothing of an event: all of its links wait. To blame
is only what is refused alone, and once more after another one was taken.

A claim that is **ready** (not in doubt, its registrant in the home list) needs these two calls
alone, and shares them with all others that are, whatever for: they are made for the most urgent. Of
the rest, which take calls of their own before, those go together that are for the same purpose: so
nobody who is ready waits for them, and no click for what a job takes up.

The claims of a group go through these steps together, each as far as it gets::

    join      who is not in the home list is put into it, by a call of their own
    look      in doubt and without a transaction: the contact's transactions are asked for ours
    create    one call; the answer says of each item whether it is made
    note      the id of each is written down, before anything else is done with it
    miss      whose transaction is refused: is their contact gone, they are put in again next time
    read      in doubt with one: the batch is read, once for all of them
    enter     one call for each batch; then there are links

What goes wrong for one is its own error, which its `make` raises; for the others it goes on. So
nothing that happens to a group is ever done twice because of one of them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeGuard, TypeVar

from milepost import failpoints
from milepost.errors import DatabaseError, MilepostError
from milepost.model import Capabilities, Claim, Deployment, Fact, Purpose
from milepost.personal_link import MalformedId, NotAPersonalLink, Template
from milepost.routes.joining import MENDING_PAUSE, Joining, merges
from milepost.routes.making import (
    BY_THEMSELVES,
    Made,
    NothingThere,
    StillUnknown,
    TooLate,
    Unready,
    looking,
    pause_of,
)
from milepost.routes.recording import find_transaction, told_of, transaction_fields
from milepost.store.grouping import GroupCommit
from milepost.store.links import CONTACT, Step
from milepost.upstream import (
    CallFailed,
    NotFound,
    Refused,
    UnknownOutcome,
    Upstream,
    count,
    counting,
)

T = TypeVar("T")

COMPANY_SECONDS: Final = 0.25
"""How long a claim waits at the most for others to share its calls while some are out. About as
long as two calls take: then there is nothing to gain by waiting on."""

LONGEST_WINDOW_SECONDS: Final = 0.5
ANSWERED_SECONDS: Final = 1.0
"""How long groups of a process that gets many events are apart at the most, and how soon a group
that has waited for that is to be done: well within the usual deadline of 1.5 s. At 150 ms two calls
take 0.3 s and some writing, so that half a second is left to wait. Each of eight processes gets 63
of 30,000 events a minute in a second, so 31 in a group, and two calls for these are 0.065 a link.
Without a window a group came every quarter of a second, of 16: 0.13 a link."""

SEVERAL: Final = 3
ENOUGH: Final = 50
"""Of a group that carried fewer events than the first nobody else is likely to come soon; one with
as many as the second took few enough calls, and the next one need not be larger."""

USUAL_MOST: Final = 100
"""Transactions of one call where it was not tried how many are taken (`transactions_per_call`). How
many are is not known; with a hundred, 30,000 links a minute take 300 calls of a class that 500 are
published for."""

GROUPS_AT_ONCE: Final = 32
"""Groups that may be under way at the same time: more than the calls of the class `transactions`
that 500 a minute allow, should each take its longest of 10 s. Those who are not ready have as many
for each purpose."""

ALONE_AT_ONCE: Final = 8
"""Links for whose own calls one group has room at the same time."""

GENERAL: Final = 2
"""After so many items that are refused alone as all together were, before any is taken, no more are
tried: it is not the items. The others of a hundred would take 190 calls more."""

READING_SECONDS: Final = 10.0
"""How long a batch is read, from the last moment at which an add could begin: as long as that might
take, so that nobody has taken the claims over yet."""

TRANSACTION: Final = "transaction"
"""The name of the step whose value is the transaction's id, `CTR_…`."""

_URGENCY: Final = tuple(Purpose)

_OF_THEMSELVES: Final = frozenset({Purpose.DIRECT, Purpose.CLICK})
"""For which claims come, whatever becomes of those before them. A job's come when these are done:
to wait for them would only hold it up."""


def window(coming: int, took: float) -> float:
    """For how many seconds from the beginning of a group the next one gathers.

    Args:
        coming: how many in the group have come of themselves.
        took: seconds from the beginning of the last group until it was done.

    Returns:
        0, where it need not wait longer than the group takes.
    """
    if not SEVERAL <= coming < ENOUGH:
        return 0.0
    wait = min(LONGEST_WINDOW_SECONDS, ANSWERED_SECONDS - took)
    return wait if wait > COMPANY_SECONDS else 0.0


class _Making:
    """A claim on its way through the steps, and what has become of it."""

    def __init__(self, claim: Claim, begin_by: float) -> None:
        self.claim = claim
        self.begin_by = begin_by
        self.home_lookup_id = claim.home_lookup_id
        self.contact_id = claim.contact_id if self.home_lookup_id is not None else None
        self.has_joined = False
        """Its registrant was put into the home list on the way."""
        self.transaction_id = claim.steps.get(TRANSACTION)
        if claim.steps.get(CONTACT) != self.contact_id:
            self.transaction_id = None  # it is somebody else's by now, and no link of it is out
        self.calls = 0.0
        self.url: str | None = None
        self.error: Exception | None = None
        self.refusal: Refused | None = None
        """The platform refused it alone; what `error` is tells whether it is to blame."""

    @property
    def key(self) -> str:
        """Under which the call that makes it has it."""
        return str(self.claim.link.id)

    @property
    def is_ready(self) -> bool:
        """Whether it takes no calls but those that all share."""
        return self.contact_id is not None and not self.claim.in_doubt

    @property
    def was_there(self) -> bool:
        """Whether an earlier attempt has noted the transaction: it may be in the batch."""
        noted = self.claim.steps.get(TRANSACTION)
        return noted is not None and noted == self.transaction_id

    @property
    def is_open(self) -> bool:
        """Whether there is something to do for it."""
        return self.error is None and self.url is None


class _Halving:
    """What was learnt of a call while it was made for ever fewer."""

    def __init__(self) -> None:
        self.whole: Refused | None = None
        """The refusal of the first call, for all of them."""
        self.most = 0
        """How many were in the largest call that was taken."""
        self.suspects: list[_Making] = []
        """Who was refused alone."""
        self._alike = 0

    def refuse(self, error: Refused, wanted: Sequence[_Making]) -> None:
        """A call for these was refused."""
        self.whole = self.whole or error
        if len(wanted) == 1:
            wanted[0].error = wanted[0].refusal = error
            self.suspects += wanted
            is_alike = error.http_status == self.whole.http_status
            self._alike += is_alike and error.error_code == self.whole.error_code

    @property
    def is_general(self) -> bool:
        """Whether it is neither the items nor how many they are."""
        return not self.most and self._alike >= GENERAL


class TransactionMaker:
    """Makes links by transactions in batches.

    Args:
        upstream: the client.
        directory_id: where contacts and transactions are.
        deployment: says which the home list is, and whether the directory recognises people.
        capabilities: says what the account has been proved to accept.
        joining: has people in the home list.
        note: writes down what was made on the way; False: the claim is somebody else's by now.
        for_purpose: says what the calls of a block are for.
        secrets: the first signs the reference by which a transaction, and a response, is matched to
            its link; the others have signed some.
    """

    call_class = "transactions"
    calls = 2
    carries = USUAL_MOST

    def __init__(
        self,
        upstream: Upstream,
        *,
        directory_id: str,
        deployment: Callable[[], Awaitable[Deployment]],
        capabilities: Callable[[], Awaitable[Capabilities]],
        joining: Joining,
        note: Callable[[Step], Awaitable[bool]],
        for_purpose: Callable[[Purpose], AbstractContextManager[None]],
        secrets: Sequence[bytes],
    ) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._deployment = deployment
        self._capabilities = capabilities
        self._joining = joining
        self._note_step = note
        self._for_purpose = for_purpose
        self._secrets = secrets
        self._largest = USUAL_MOST
        self._took = 0.0
        self._ready = self._gathering(self._make_ready_group, self._window)
        self._unready = {
            purpose: self._gathering(self._make_group, lambda _: 0.0) for purpose in Purpose
        }

    def _gathering(
        self,
        make: Callable[[Sequence[_Making]], Awaitable[Sequence[_Making]]],
        window: Callable[[Sequence[_Making]], float],
    ) -> GroupCommit[_Making, _Making]:
        return GroupCommit(
            make,
            apart=lambda making: (making.key,),
            same=lambda making: (making.key, making.claim.attempt),
            most=self.carries,
            writers=GROUPS_AT_ONCE,
            beside=lambda _: self.carries,
            patience=COMPANY_SECONDS,
            window=window,
        )

    async def make(self, claim: Claim, *, begin_by: float) -> Made:
        """Make the claim's transaction and put it into the batch, with others. See `Maker`."""
        if claim.place is None or claim.place.batch_id is None:
            raise TypeError("a claim of route transaction without a batch")
        making = _Making(claim, begin_by)
        gathering = self._ready if making.is_ready else self._unready[claim.purpose]
        making, _ = await gathering.submit(making)
        count(making.calls)
        if making.error is not None:
            raise making.error
        return Made(
            lookup_id=making.transaction_id or "",
            url=making.url or "",
            contact_id=None,
            expires_at=claim.place.expires_at,
        )

    # --- a group --------------------------------------------------------------------------------

    def _window(self, group: Sequence[_Making]) -> float:
        coming = sum(making.claim.purpose in _OF_THEMSELVES for making in group)
        return window(coming, self._took)

    async def _make_ready_group(self, group: Sequence[_Making]) -> Sequence[_Making]:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._make_group(group)
        finally:
            self._took = clock() - began

    async def _make_group(self, group: Sequence[_Making]) -> Sequence[_Making]:
        """Do all that can be done for each; it never raises, or the group would be tried again."""
        purpose = min((making.claim.purpose for making in group), key=_URGENCY.index)
        try:
            with self._for_purpose(purpose):
                await self._take_through(group)
        except Exception as error:  # noqa: BLE001  (each is told, whatever it is)
            _fail(group, error)
        return group

    async def _take_through(self, group: Sequence[_Making]) -> None:
        account, deployment = await self._capabilities(), await self._deployment()
        self._learn_size(account)
        lacking = [making for making in group if making.transaction_id is None]
        home = deployment.home_list_id or ""
        if not home:
            # It was lost, and job `sync` makes another one.
            detail = "there is no home list at present"
            _fail(lacking, Unready("home-list-missing", detail, pause=MENDING_PAUSE))
        merging = merges(deployment, account)
        refused = await self._have_transactions(_open(lacking), home, merging=merging)
        batches: defaultdict[str, list[_Making]] = defaultdict(list)
        for making in _open(group):
            batches[_batch(making)].append(making)
        await asyncio.gather(
            *(self._enter_all(*each) for each in batches.items()),
            self._each_alone(refused, lambda making: self._miss(making, home)),
        )

    async def _have_transactions(
        self, lacking: Sequence[_Making], home: str, *, merging: bool
    ) -> list[_Making]:
        """Bring these as far as a transaction that is written down; returns who was refused one."""
        unready = [making for making in lacking if not making.is_ready]
        await self._each_alone(
            unready, lambda making: self._make_ready(making, home, merging=merging)
        )
        wanted = [making for making in _open(lacking) if making.transaction_id is None]
        await self._in_calls(wanted, lambda some: self._create(some, home), self._not_taken)
        return [making for making in wanted if making.refusal is not None]

    async def _each_alone(
        self,
        makings: Sequence[_Making],
        work: Callable[[_Making], Coroutine[Any, Any, None]],
    ) -> None:
        """Do for each what concerns it alone: its calls and its error are its own."""
        places = asyncio.Semaphore(ALONE_AT_ONCE)

        async def alone(making: _Making) -> None:
            async with places:
                error = await self._shared([making], work(making))
            if isinstance(error, Exception):
                making.error = error

        await asyncio.gather(*(alone(making) for making in makings))

    async def _shared(
        self, makings: Sequence[_Making], call: Coroutine[Any, Any, T]
    ) -> T | Exception:
        """Make a call for several, each of whom bears a part of it; an error is a value."""
        with counting() as calls:
            try:
                return await call
            except Exception as error:  # noqa: BLE001  (whoever it concerns is told)
                return error
            finally:
                for making in makings:
                    making.calls += calls.count / len(makings)

    # --- how many at once -----------------------------------------------------------------------

    def _learn_size(self, account: Capabilities) -> None:
        """Begin with what was tried on the account."""
        tried = account.get(Fact.TRANSACTIONS_PER_CALL)
        largest = USUAL_MOST
        if tried is not None:
            largest = max(tried.figure or 1, 1) if tried.holds else 1
        if largest != self._largest:
            self._largest = largest
            self._resize(largest)

    async def _in_calls(
        self,
        makings: Sequence[_Making],
        call: Callable[[Sequence[_Making]], Coroutine[Any, Any, None]],
        not_taken: Callable[[Sequence[_Making], Refused], Awaitable[None]],
    ) -> None:
        """Make a call for so many of these at a time as one carries at present.

        Args:
            makings: for whom.
            call: makes it for some.
            not_taken: says what becomes of those for whom nothing was taken, whatever was asked.
        """
        left = makings
        while left:
            some, left = left[: self.carries], left[self.carries :]
            halving = _Halving()
            await self._by_halves(some, call, halving)
            if halving.whole is None:
                continue
            if not halving.most:
                await not_taken([*halving.suspects, *_open(some)], halving.whole)
            elif halving.suspects:
                await self._try_again(halving.suspects, call)
            else:
                self._resize(min(self.carries, halving.most))

    async def _try_again(
        self,
        suspects: Sequence[_Making],
        call: Callable[[Sequence[_Making]], Coroutine[Any, Any, None]],
    ) -> None:
        """Make a call for each, now that others were taken: the platform may have come round."""
        for making in suspects:
            making.error = making.refusal = None
        await self._each_alone(self._addable(suspects), lambda making: call([making]))
        for making in suspects:
            if _is_refusal(making.error):
                making.refusal = making.error

    async def _not_taken(self, makings: Sequence[_Making], refusal: Refused) -> None:
        """Have these wait: that a call is refused whatever is in it is no event's fault."""
        for making in makings:
            detail = f"the platform makes no transaction now: {refusal}"
            making.error = Unready("upstream-refused", detail, pause=pause_of(making.claim))

    async def _by_halves(
        self,
        makings: Sequence[_Making],
        call: Callable[[Sequence[_Making]], Coroutine[Any, Any, None]],
        halving: _Halving,
    ) -> None:
        """Make a call for these, or for each half of them, where it is refused as a whole."""
        if halving.is_general:
            return
        wanted = self._addable(makings)
        if not wanted:
            return
        error = await self._shared(wanted, call(wanted))
        if not isinstance(error, Exception):
            halving.most = max(halving.most, len(wanted))
            return
        if _is_refusal(error):
            halving.refuse(error, wanted)
            if len(wanted) > 1:
                half = len(wanted) // 2
                await self._by_halves(wanted[:half], call, halving)
                await self._by_halves(wanted[half:], call, halving)
            return
        if len(wanted) > 1 and _is_too_large(error):
            self._resize(min(self.carries, len(wanted) // 2))
        _fail(wanted, error)

    def _resize(self, most: int) -> None:
        self.carries = max(1, min(most, self._largest))
        for gathering in (self._ready, *self._unready.values()):
            gathering.most = self.carries

    # --- join, look and create ------------------------------------------------------------------

    async def _make_ready(self, making: _Making, home: str, *, merging: bool) -> None:
        if making.contact_id is None:
            await self._join(making, home, merging=merging)
        if making.claim.in_doubt:
            await self._look(making)

    async def _join(self, making: _Making, home: str, *, merging: bool) -> None:
        """Put the registrant into the home list, once for all of their links."""
        claim = making.claim
        if not claim.may_add:
            raise NothingThere("the registrant's contact has changed, and no earlier call made it")
        _see_time(making)
        making.contact_id, making.home_lookup_id = await self._joining.member(
            claim.ref, home, merges=merging
        )
        making.has_joined = True

    async def _look(self, making: _Making) -> None:
        """Find what an earlier call may have made: a transaction that names the link."""
        claim = making.claim
        async with looking("an earlier call", until=making.begin_by):
            making.transaction_id = await self._found(making)
        if making.transaction_id is not None:
            await self._note(making)
        elif not (claim.looked_enough or making.has_joined):
            # Of who has joined it was that which was in doubt, or they were forgotten since.
            raise StillUnknown("the transaction of an earlier call is not found yet", looked=True)

    async def _found(self, making: _Making) -> str | None:
        return await find_transaction(
            self._upstream,
            self._directory_id,
            making.contact_id or "",
            making.claim,
            secrets=self._secrets,
        )

    async def _create(self, makings: Sequence[_Making], home: str) -> None:
        """Make their transactions, and write down of each what it is."""
        fields = {
            making.key: transaction_fields(
                making.claim, making.contact_id or "", home, self._secrets[0]
            )
            for making in makings
        }
        try:
            answer = await self._upstream.create_transactions(self._directory_id, fields)
        except NotFound as error:
            # No batch is named here: it is the directory that is not found.
            raise Unready("upstream-away", str(error), pause=MENDING_PAUSE) from error
        if len(makings) >= self.carries:
            self._resize(self.carries + max(1, self.carries // 8))
        for making in makings:
            try:
                making.transaction_id = told_of(answer, making.key)
            except Refused as error:
                making.error = making.refusal = error
            except UnknownOutcome as error:
                making.error = error
        refusals = [making.refusal for making in makings if making.refusal is not None]
        if len(refusals) == len(makings) > 1:
            await self._not_taken(makings, refusals[0])
        await asyncio.gather(*(self._note(making) for making in _open(makings)))

    async def _note(self, making: _Making) -> None:
        """Write the transaction down; one that is not is looked for by whoever comes next."""
        claim = making.claim
        failpoints.reach("created", claim.link.event_id)
        step = Step(
            id=claim.link.id,
            attempt=claim.attempt,
            name=TRANSACTION,
            value=making.transaction_id or "",
            contact=making.contact_id or "",
        )
        try:
            is_noted = await self._note_step(step)
        except DatabaseError as error:
            making.error = StillUnknown(f"a transaction is not written down: {error}", looked=False)
            return
        if not is_noted:
            making.error = TooLate("the claim was taken over")
        failpoints.reach("noted", claim.link.event_id)

    async def _miss(self, making: _Making, home: str) -> None:
        """See whether whose transaction is refused is still in the home list."""
        contact_id, lookup_id = making.contact_id or "", making.home_lookup_id or ""
        if await self._joining.miss_if_gone(making.claim.ref, home, contact_id, lookup_id):
            raise Unready(
                "contact-missing",
                f"the contact has to be looked for: {making.refusal}",
                pause=pause_of(making.claim),
                is_resolved=True,
            )

    # --- the batch ------------------------------------------------------------------------------

    async def _enter_all(self, batch_id: str, makings: Sequence[_Making]) -> None:
        """Have the transactions of these in a batch, and so their links."""
        doubtful = [making for making in makings if making.claim.in_doubt and making.was_there]
        reading = [making for making in doubtful if not making.claim.looked_enough]
        if reading:
            missing = await self._shared(reading, self._missing(batch_id, reading))
            if isinstance(missing, NotFound):
                _fail(makings, missing)  # the batch is gone, with whatever was in it
            elif isinstance(missing, Exception):
                _fail(reading, missing)
            else:
                for making in reading:
                    if making.transaction_id not in missing:
                        _end(making)
                    elif asyncio.get_running_loop().time() > making.begin_by:
                        detail = "the transaction was not in the batch, which took long to read"
                        making.error = StillUnknown(detail, looked=True)

        async def not_taken(some: Sequence[_Making], refusal: Refused) -> None:
            await self._not_entered(batch_id, some, refusal)

        await self._in_calls(_open(makings), lambda some: self._enter(batch_id, some), not_taken)

    async def _missing(self, batch_id: str, makings: Sequence[_Making]) -> set[str | None]:
        """Which transactions are not in a batch; it is read no further than until all are found."""
        missing = {making.transaction_id for making in makings}
        until = min(making.begin_by for making in makings) + READING_SECONDS
        # One that takes too long would each time; what is in it already may be added again
        # (inferred).
        passing = (*BY_THEMSELVES, NotFound)
        async with looking("them in the batch", until=until, passing=passing, over_counts=True):
            found = self._upstream.batch_transactions(self._directory_id, batch_id)
            async for transaction_id in found:
                missing.discard(transaction_id)
                if not missing:
                    break
        return missing

    async def _enter(self, batch_id: str, makings: Sequence[_Making]) -> None:
        """Put transactions into a batch."""
        ids = [making.transaction_id or "" for making in makings]
        await self._upstream.add_to_batch(self._directory_id, batch_id, ids)
        for making in makings:
            _end(making)

    async def _not_entered(
        self, batch_id: str, makings: Sequence[_Making], refusal: Refused
    ) -> None:
        """Have these wait; where it is the batch that takes no more, for another one."""
        is_full = await self._shared(makings, self._is_full(batch_id, makings[0])) is True
        for making in makings:
            making.error = Unready(
                "batch-refused",
                f"the platform puts no transaction into the batch now: {refusal}",
                pause=pause_of(making.claim),
                leaves=is_full,
            )

    async def _is_full(self, batch_id: str, making: _Making) -> bool:
        """Whether it is the batch that was refused: the transaction is there, and others are in it.

        One that holds only our probe's is not replaced: the next one would fare like it.
        """
        async with looking("what is in the batch", until=making.begin_by):
            if await self._found(making) is None:
                return False
            held = 0
            async for _ in self._upstream.batch_transactions(self._directory_id, batch_id):
                held += 1
                if held > 1:
                    return True
        return False

    # --- what any of it may do ------------------------------------------------------------------

    def _addable(self, makings: Sequence[_Making]) -> list[_Making]:
        """Those of them for whom a call that changes something may begin now."""
        for making in makings:
            try:
                if not making.claim.may_add:
                    detail = "the registrant's contact has changed, or the link was revoked"
                    raise NothingThere(detail)
                _see_time(making)
            except MilepostError as error:
                making.error = error
        return _open(makings)


def _see_time(making: _Making) -> None:
    if asyncio.get_running_loop().time() > making.begin_by:
        raise TooLate("the claim is too old for a call")


def _open(makings: Sequence[_Making]) -> list[_Making]:
    return [making for making in makings if making.is_open]


def _fail(makings: Sequence[_Making], error: Exception) -> None:
    for making in _open(makings):
        making.error = error


def _end(making: _Making) -> None:
    """The transaction is in the batch: build its link."""
    place = making.claim.place
    try:
        making.url = Template.parse(place.template if place else "").url(
            making.transaction_id or ""
        )
    except (MalformedId, NotAPersonalLink) as error:
        making.error = error


def _batch(making: _Making) -> str:
    place = making.claim.place
    return (place.batch_id if place else None) or ""


def _is_refusal(error: Exception | None) -> TypeGuard[Refused]:
    """Whether it is for what is asked: fewer items, or all but one of them, might be taken."""
    return isinstance(error, Refused) and not isinstance(error, (*BY_THEMSELVES, NotFound))


def _is_too_large(error: Exception) -> bool:
    """Whether somebody on the way refused the call for its size; what it did may be unknown."""
    return isinstance(error, CallFailed) and error.http_status == 413  # noqa: PLR2004  (the status)
