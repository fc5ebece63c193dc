"""Route `transaction`: an event becomes a transaction of its registrant's contact, in a batch.

Two calls, for as many events as there are: one makes the transactions, one puts them into the batch
on which the distribution stands. The URL is the distribution's template with the transaction's id
in it. Data are the transaction's own, so that a person may hold any number of links.

Claims are gathered as the store gathers what it writes (`GroupCommit`): while nothing is out a
claim goes at once and alone; what comes while calls are out goes together when they end, or after
`COMPANY_SECONDS`, or as soon as a call is full. How many are in one is found out: one that is
refused as a whole is made again in halves; later ones are as large as was taken then, and grow
again with each full one.

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

from milepost import failpoints, payload
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
    pause_of,
)
from milepost.store.grouping import GroupCommit
from milepost.store.links import CONTACT, Step
from milepost.upstream import (
    CallFailed,
    NotFound,
    Refused,
    TransactionFields,
    UnknownOutcome,
    Upstream,
    count,
    counting,
)

T = TypeVar("T")

COMPANY_SECONDS: Final = 0.25
"""How long a claim waits at the most for others to share its calls while some are out. About as
long as two calls take: then there is nothing to gain by waiting on."""

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
"""So many items that are refused alone as all together were, before any is taken, tell that it is
not the items: the others of a hundred would take 190 calls more."""

READING_SECONDS: Final = 10.0
"""How long a batch is read, from the last moment at which an add could begin: as long as that might
take, so that nobody has taken the claims over yet."""

TRANSACTION: Final = "transaction"
"""The name of the step whose value is the transaction's id, `CTR_…`."""

_URGENCY: Final = tuple(Purpose)


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
        self.culprits = 0
        """Items that were refused alone: it was the item then, and not how many they were."""
        self._alike = 0

    def refuse(self, error: Refused, items: int) -> None:
        """A call for so many was refused."""
        self.whole = self.whole or error
        if items == 1:
            self.culprits += 1
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
        self._ready = self._gathering()
        self._unready = {purpose: self._gathering() for purpose in Purpose}

    def _gathering(self) -> GroupCommit[_Making, _Making]:
        return GroupCommit(
            self._make_group,
            apart=lambda making: (making.key,),
            same=lambda making: (making.key, making.claim.attempt),
            most=self.carries,
            writers=GROUPS_AT_ONCE,
            beside=lambda _: self.carries,
            patience=COMPANY_SECONDS,
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
        await self._in_calls(wanted, lambda some: self._create(some, home))
        return [making for making in wanted if _is_refusal(making.error)]

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
    ) -> None:
        """Make a call for so many of these at a time as one carries at present."""
        left = makings
        while left:
            some, left = left[: self.carries], left[self.carries :]
            halving = _Halving()
            await self._by_halves(some, call, halving)
            if halving.whole is not None and halving.most and not halving.culprits:
                self._resize(min(self.carries, halving.most))

    async def _by_halves(
        self,
        makings: Sequence[_Making],
        call: Callable[[Sequence[_Making]], Coroutine[Any, Any, None]],
        halving: _Halving,
    ) -> None:
        """Make a call for these, or for each half of them, where it is refused as a whole."""
        wanted = self._addable(makings)
        if halving.is_general:
            for making in wanted:
                detail = f"the call is refused whatever is in it: {halving.whole}"
                making.error = Unready("upstream-refused", detail, pause=pause_of(making.claim))
            return
        if not wanted:
            return
        error = await self._shared(wanted, call(wanted))
        if not isinstance(error, Exception):
            halving.most = max(halving.most, len(wanted))
            return
        if _is_refusal(error):
            halving.refuse(error, len(wanted))
            if len(wanted) > 1:
                half = len(wanted) // 2
                await self._by_halves(wanted[:half], call, halving)
                await self._by_halves(wanted[half:], call, halving)
                return
        elif len(wanted) > 1 and _is_too_large(error):
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
        try:
            async with asyncio.timeout_at(making.begin_by):
                making.transaction_id = await self._find(claim, making.contact_id or "")
        except TimeoutError:
            detail = "looking for an earlier call takes too long"
            raise StillUnknown(detail, looked=False) from None
        except Refused as error:
            if isinstance(error, BY_THEMSELVES):
                raise
            raise StillUnknown(f"a look was refused: {error}", looked=False) from error
        if making.transaction_id is not None:
            await self._note(making)
        elif not (claim.looked_enough or making.has_joined):
            # Of who has joined it was that which was in doubt, or they were forgotten since.
            raise StillUnknown("the transaction of an earlier call is not found yet", looked=True)

    async def _find(self, claim: Claim, contact_id: str) -> str | None:
        made = self._upstream.contact_transactions(self._directory_id, contact_id)
        try:
            async for each in made:
                reference = each.data.get(payload.REFERENCE_FIELD)
                if (
                    isinstance(reference, str)
                    and payload.unseal(reference, self._secrets) == claim.link.id
                ):
                    return each.transaction_id
        except NotFound:
            return None  # with the contact its transactions are gone
        return None

    async def _create(self, makings: Sequence[_Making], home: str) -> None:
        """Make their transactions, and write down of each what it is."""
        fields = {making.key: self._fields(making, home) for making in makings}
        try:
            answer = await self._upstream.create_transactions(self._directory_id, fields)
        except NotFound as error:
            # No batch is named here: it is the directory that is not found.
            raise Unready("upstream-away", str(error), pause=MENDING_PAUSE) from error
        if len(makings) >= self.carries:
            self._resize(self.carries + max(1, self.carries // 8))
        for making in makings:
            verb = "create_transactions"
            if (refusal := answer.refused.get(making.key)) is not None:
                code = f" (code {refusal.code})" if refusal.code else ""
                making.error = Refused(verb, f"the transaction is refused{code}")
            elif making.key in answer.untold:
                saying = "the answer does not tell of the transaction"
                making.error = UnknownOutcome(verb, saying, "no-result")
            else:
                making.transaction_id = answer.created[making.key]
        await asyncio.gather(*(self._note(making) for making in _open(makings)))

    def _fields(self, making: _Making, home: str) -> TransactionFields:
        claim = making.claim
        reference = payload.reference(claim.link, self._secrets[0])
        return TransactionFields(
            contact_id=making.contact_id or "",
            list_id=home,
            at=claim.at,
            data=payload.embedded(claim.data, claim.details.attributes, claim.fields, reference),
        )

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
                f"the contact has to be looked for: {making.error}",
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
        await self._in_calls(_open(makings), lambda some: self._enter(batch_id, some))

    async def _missing(self, batch_id: str, makings: Sequence[_Making]) -> set[str | None]:
        """Which transactions are not in a batch; it is read no further than until all are found."""
        missing = {making.transaction_id for making in makings}
        until = min(making.begin_by for making in makings) + READING_SECONDS
        try:
            async with asyncio.timeout_at(until):
                found = self._upstream.batch_transactions(self._directory_id, batch_id)
                async for transaction_id in found:
                    missing.discard(transaction_id)
                    if not missing:
                        break
        except TimeoutError:
            # It would each time; what is in it already may be added again (inferred).
            raise StillUnknown("reading the batch takes too long", looked=True) from None
        except Refused as error:
            if isinstance(error, (*BY_THEMSELVES, NotFound)):
                raise
            raise StillUnknown(f"reading the batch was refused: {error}", looked=False) from error
        return missing

    async def _enter(self, batch_id: str, makings: Sequence[_Making]) -> None:
        """Put transactions into a batch."""
        ids = [making.transaction_id or "" for making in makings]
        await self._upstream.add_to_batch(self._directory_id, batch_id, ids)
        for making in makings:
            _end(making)

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
