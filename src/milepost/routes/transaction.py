"""Route `transaction`: an event becomes a transaction of its registrant's contact, in a batch.

Two calls, for as many events as there are: one makes the transactions, one puts them into the batch
on which the distribution stands. The URL is the distribution's template with the transaction's id
in it. Data are the transaction's own, so that a person may hold any number of links.

Claims are gathered as the store gathers what it writes (`GroupCommit`): while nothing is out a
claim goes at once and alone; what comes while calls are out goes together when they end, or after
`COMPANY_SECONDS`, or as soon as a call is full. How many are in one is found out: one that is
refused as a whole is made again in halves; later ones are as large as was taken then, and grow
again with each full one.

The claims of a group go through these steps together, each as far as it gets::

    join      who is not in the home list is put into it, by a call of their own
    look      in doubt and without a transaction: the contact's transactions are asked for ours
    create    one call; the answer says of each item whether it is made
    note      the id of each is written down, before anything else is done with it
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
from typing import Any, Final, TypeVar

from msgspec import Struct

from milepost import failpoints, payload
from milepost.errors import DatabaseError, MilepostError
from milepost.model import Capabilities, Claim, Deployment, Fact, Purpose
from milepost.personal_link import MalformedId, NotAPersonalLink, Template
from milepost.routes.joining import MENDING_PAUSE, Joining, merges
from milepost.routes.making import Made, NothingThere, StillUnknown, TooLate, Unready
from milepost.store.grouping import GroupCommit
from milepost.store.links import CONTACT, Step
from milepost.upstream import (
    CallFailed,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    TransactionFields,
    Unauthorized,
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
that 500 a minute allow, should each take its longest of 10 s."""

JOINS_AT_ONCE: Final = 8
LOOKS_AT_ONCE: Final = 8
"""Calls of a single link that one group has out."""

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
        self.contact_id = claim.contact_id if claim.home_lookup_id is not None else None
        self.transaction_id = claim.steps.get(TRANSACTION)
        if claim.steps.get(CONTACT) != self.contact_id:
            self.transaction_id = None  # it is somebody else's by now, and no link of it is out
        self.was_there = self.transaction_id is not None
        """An earlier attempt has noted the transaction, and may have put it into the batch."""
        self.calls = 0.0
        self.url: str | None = None
        self.error: Exception | None = None

    @property
    def key(self) -> str:
        """Under which the call that makes it has it."""
        return str(self.claim.link.id)

    @property
    def is_open(self) -> bool:
        """Whether there is something to do for it."""
        return self.error is None and self.url is None


class _Taken(Struct, frozen=True):
    """What the platform took of several items."""

    most: int
    """How many were in the largest call that it took."""
    in_halves: bool = False
    """It refused the first call as a whole."""
    met_culprit: bool = False
    """One was refused alone: it was the item then, and not how many they were."""


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
        self._group: GroupCommit[_Making, _Making] = GroupCommit(
            self._make_group,
            apart=lambda making: (making.key,),
            same=lambda making: (making.key, making.claim.attempt),
            most=USUAL_MOST,
            writers=GROUPS_AT_ONCE,
            beside=lambda _: self.carries,
            patience=COMPANY_SECONDS,
        )

    @property
    def carries(self) -> int:
        """How many links one call makes at present."""
        return self._group.most

    async def make(self, claim: Claim, *, begin_by: float) -> Made:
        """Make the claim's transaction and put it into the batch, with others. See `Maker`."""
        if claim.place is None or claim.place.batch_id is None:
            raise TypeError("a claim of route transaction without a batch")
        making, _ = await self._group.submit(_Making(claim, begin_by))
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
        await self._have_transactions(group, account, deployment)
        batches: defaultdict[str, list[_Making]] = defaultdict(list)
        for making in _open(group):
            batches[_batch(making)].append(making)
        await asyncio.gather(*(self._enter_all(*each) for each in batches.items()))

    async def _have_transactions(
        self, group: Sequence[_Making], account: Capabilities, deployment: Deployment
    ) -> None:
        """Bring those who have none as far as a transaction that is written down."""
        lacking = [making for making in group if making.transaction_id is None]
        list_id = deployment.home_list_id
        if list_id is None:
            # It was lost, and job `sync` makes another one.
            detail = "there is no home list at present"
            _fail(lacking, Unready("home-list-missing", detail, pause=MENDING_PAUSE))
            return
        merging = merges(deployment, account)
        # In doubt, but not in the home list before: it is joining that is in doubt, at the most.
        looking = [
            making for making in lacking if making.claim.in_doubt and making.contact_id is not None
        ]
        joining = [making for making in lacking if making.contact_id is None]
        await _some_at_once(
            LOOKS_AT_ONCE, [self._separately(making, self._look(making)) for making in looking]
        )
        await _some_at_once(
            JOINS_AT_ONCE,
            [
                self._separately(making, self._join(making, list_id, merging=merging))
                for making in joining
            ],
        )
        wanted = [making for making in _open(lacking) if making.transaction_id is None]
        await self._in_calls(wanted, lambda some: self._create(some, list_id))

    async def _separately(self, making: _Making, work: Coroutine[Any, Any, None]) -> None:
        """Do what concerns one alone; its calls and its error are its own."""
        error = await self._shared([making], work)
        if isinstance(error, Exception):
            making.error = error

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
            self._largest = self._group.most = largest

    async def _in_calls(
        self,
        makings: Sequence[_Making],
        call: Callable[[Sequence[_Making]], Coroutine[Any, Any, None]],
    ) -> None:
        """Make a call for so many of these at a time as one carries at present."""
        left = makings
        while left:
            some, left = left[: self.carries], left[self.carries :]
            taken = await self._by_halves(some, call)
            if taken.in_halves and taken.most and not taken.met_culprit:
                self._resize(min(self.carries, taken.most))

    async def _by_halves(
        self,
        makings: Sequence[_Making],
        call: Callable[[Sequence[_Making]], Coroutine[Any, Any, None]],
    ) -> _Taken:
        """Make a call for these, or for each half of them, where it is refused as a whole."""
        wanted = self._addable(makings)
        if not wanted:
            return _Taken(0)
        error = await self._shared(wanted, call(wanted))
        if not isinstance(error, Exception):
            return _Taken(len(wanted))
        is_refused = _is_refused_as_a_whole(error)
        if len(wanted) == 1 or not is_refused:
            if len(wanted) > 1 and _is_too_large(error):
                self._resize(min(self.carries, len(wanted) // 2))
            _fail(wanted, error)
            return _Taken(0, met_culprit=is_refused)
        half = len(wanted) // 2
        one = await self._by_halves(wanted[:half], call)
        other = await self._by_halves(wanted[half:], call)
        return _Taken(
            max(one.most, other.most),
            in_halves=True,
            met_culprit=one.met_culprit or other.met_culprit,
        )

    def _resize(self, most: int) -> None:
        self._group.most = max(1, min(most, self._largest))

    # --- join -----------------------------------------------------------------------------------

    async def _join(self, making: _Making, list_id: str, *, merging: bool) -> None:
        """Put the registrant into the home list, once for all of their links."""
        claim = making.claim
        if not claim.may_add:
            raise NothingThere("the registrant's contact has changed, and no earlier call made it")
        _see_time(making)
        making.contact_id, _ = await self._joining.member(claim.ref, list_id, merges=merging)

    # --- look and create ------------------------------------------------------------------------

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
            if isinstance(error, Throttled | Unauthorized | Forbidden):
                raise  # these say by themselves what to do
            raise StillUnknown(f"a look was refused: {error}", looked=False) from error
        if making.transaction_id is not None:
            await self._note(making)
        elif not claim.looked_enough:
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

    async def _create(self, makings: Sequence[_Making], list_id: str) -> None:
        """Make their transactions, and write down of each what it is."""
        fields = {making.key: self._fields(making, list_id) for making in makings}
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

    def _fields(self, making: _Making, list_id: str) -> TransactionFields:
        claim = making.claim
        reference = payload.seal(claim.link.id, self._secrets[0])
        return TransactionFields(
            contact_id=making.contact_id or "",
            list_id=list_id,
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
            if isinstance(error, Throttled | Unauthorized | Forbidden | NotFound):
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


def _is_refused_as_a_whole(error: Exception) -> bool:
    """Whether fewer items, or all but one of them, might be taken."""
    says_itself = Throttled | Unauthorized | Forbidden | NotFound
    return isinstance(error, Refused) and not isinstance(error, says_itself)


def _is_too_large(error: Exception) -> bool:
    """Whether somebody on the way refused the call for its size; what it did may be unknown."""
    return isinstance(error, CallFailed) and error.http_status == 413  # noqa: PLR2004  (the status)


async def _some_at_once(most: int, works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do several things, not more than so many of them at the same time."""
    places = asyncio.Semaphore(most)

    async def within(work: Coroutine[Any, Any, None]) -> None:
        async with places:
            await work

    await asyncio.gather(*(within(work) for work in works))
