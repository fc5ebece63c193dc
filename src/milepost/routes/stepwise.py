"""Route `stepwise`: the platform's documented way to one link, call by call.

::

    contact ─▶ transaction ─▶ batch ─▶ distribution ─▶ list of links
    (home list; no call
     where it is there)

Nothing is made ahead of the event, and nothing is built here: the link is given out as the platform
lists it, once it names what was made. Each id is written down before the next call goes out, so
that whoever takes the claim over goes on behind the last one. Only the call after that may have
been made without anybody's knowing, and what became of it is asked before it is made again:

============  ======================================================================================
contact       that is a matter of the registrant (`joining.py`)
transaction   among those of the contact, by the link's reference in its data; it is made again only
              after three looks over a minute that found none
batch         it has no name, and no transaction tells of it: another one is made. The lost one has
              no distribution, so no link of it is ever to be had
distribution  among those of the survey, by its end and by what it stands on. Of so many that they
              cannot be read in time another one is made, after three tries over a minute
============  ======================================================================================

Where the account refuses distributions of batches, the data go to the contact's place in the home
list, and the distribution is one for this contact alone. A list has one set of data for a person:
the claim sees to it that nobody holds two such links at a time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from milepost import failpoints
from milepost.model import Capabilities, Claim, Deployment, Fact
from milepost.personal_link import parse
from milepost.routes.joining import MENDING_PAUSE, Joining, merges
from milepost.routes.making import (
    BY_THEMSELVES,
    Made,
    NothingThere,
    StillUnknown,
    TooLate,
    Unready,
    Untrusted,
    contact_fields,
    looking,
    pause_of,
)
from milepost.routes.recording import embedded, find_transaction, told_of, transaction_fields
from milepost.store.links import CONTACT, Step
from milepost.upstream import (
    Distribution,
    ListedLink,
    NotFound,
    Refused,
    Upstream,
)

CALL_CLASSES: Final = ("transactions", "links", "transaction_batches", "distributions")
"""Of its calls, in both forms; most of their published limits are the same (second-hand)."""

LISTING_SECONDS: Final = 10.0
"""How long a list of links is read, from the last moment at which a call could begin: it has one
page, unless the platform takes the list for the contact."""


REFUSED_SECONDS: Final = 60.0
"""For so long after a refused distribution no other chain of that survey is begun: each would leave
a transaction and a batch to wait for one, for days where the account takes no batches and nobody
has tried it (`doctor --probe`). Those that are begun go on trying."""


class StepwiseMaker:
    """Makes links by the platform's documented chain of calls.

    Args:
        upstream: the client.
        joining: has people in the home list.
        directory_id: where contacts and transactions are.
        deployment_id: is in the description of each distribution.
        deployment: says which is the home list; asked for each link.
        capabilities: says whether the account takes distributions of batches.
        note: writes down what was made on the way; False: the claim is somebody else's by now.
        secrets: the first signs the reference by which a transaction, and a response, is matched to
            its link; the others have signed some.
        limits: calls a minute of call classes: the scarcest is what the budget is asked for.
    """

    carries = 1
    calls = 5

    def __init__(
        self,
        upstream: Upstream,
        joining: Joining,
        *,
        directory_id: str,
        deployment_id: str,
        deployment: Callable[[], Awaitable[Deployment]],
        capabilities: Callable[[], Awaitable[Capabilities]],
        note: Callable[[Step], Awaitable[bool]],
        secrets: Sequence[bytes],
        limits: Mapping[str, int],
    ) -> None:
        self.call_class: str = min(CALL_CLASSES, key=lambda name: limits.get(name, sys.maxsize))
        self.upstream = upstream
        self.joining = joining
        self.directory_id = directory_id
        self.deployment_id = deployment_id
        self.deployment = deployment
        self.capabilities = capabilities
        self.note = note
        self.secrets = secrets
        self.refused_until: dict[str, float] = {}
        """Surveys of which no distribution of a batch was made of late, by the loop's time."""

    async def make(self, claim: Claim, *, begin_by: float) -> Made:
        """Go on with the chain from where it is. See `Maker`."""
        way = _Way(self, claim, begin_by)
        try:
            return await way.link()
        except NotFound as error:
            raise way.unready(
                "step-missing", f"what the link is to stand on is not there: {error}"
            ) from error


class _Way:
    """The way of one claim along the chain."""

    def __init__(self, maker: StepwiseMaker, claim: Claim, begin_by: float) -> None:
        self._maker = maker
        self._upstream = maker.upstream
        self._claim = claim
        self._begin_by = begin_by
        self._steps = dict(claim.steps)
        if not self._steps.get("end", claim.survey_id).endswith(claim.survey_id):
            # The milestone has another survey by now. Transaction and batch are of none.
            for step in ("end", "distribution", "own_distribution"):
                self._steps.pop(step, None)
        self._in_doubt = claim.in_doubt
        """The first step that is not written down may have been made all the same."""
        self._has_joined = False

    def unready(self, rule: str, detail: str) -> Unready:
        """That something is not there yet: looked for again after a quarter of the link's age."""
        return Unready(rule, detail, pause=pause_of(self._claim), is_resolved=not self._in_doubt)

    async def link(self) -> Made:
        """All steps that are still to be made, and the link at their end."""
        account = await self._maker.capabilities()
        deployment = await self._maker.deployment()
        home = deployment.home_list_id
        if home is None:
            detail = "there is no home list yet: job sync makes it"
            raise Unready("home-list-missing", detail, pause=MENDING_PAUSE)
        contact_id, lookup_id = await self._contact(home, merges=merges(deployment, account))
        if self._steps.get(CONTACT) != contact_id:
            self._steps = {CONTACT: contact_id}  # they are somebody else's; no link of them is out
        if self._is_of_a_batch(account):
            self._see_that_it_leads_on()
            recipient = await self._transaction(home, contact_id, lookup_id)
            batch_id = await self._batch(recipient)
            distribution_id = await self._distribution(batch_id, recipient)
        else:
            recipient = lookup_id
            if account.holds(Fact.PRIVATE_DATA):
                await self._data(home, contact_id, lookup_id)
            distribution_id = await self._own_distribution(home, lookup_id)
        expires_at = self._expires_at
        listed = await self._listed(distribution_id, recipient)
        _trust(listed, self._claim.survey_id, distribution_id, recipient, expires_at)
        return Made(lookup_id=recipient, url=listed.link, contact_id=None, expires_at=expires_at)

    def _is_of_a_batch(self, account: Capabilities) -> bool:
        """By which form the link is made: that of its distribution, where it has one already."""
        if "distribution" in self._steps:
            return True
        return "own_distribution" not in self._steps and account.holds(Fact.TRANSACTION_BATCH)

    def _see_that_it_leads_on(self) -> None:
        """See, before anything is made, whether the platform makes distributions."""
        until = self._maker.refused_until.get(self._claim.survey_id, 0.0)
        is_begun = self._in_doubt or "transaction" in self._steps
        if not is_begun and asyncio.get_running_loop().time() < until:
            raise self.unready("distribution-refused", "others wait for the survey's distributions")

    # --- the steps ------------------------------------------------------------------------------

    async def _contact(self, home: str, *, merges: bool) -> tuple[str, str]:
        """The registrant's contact, and its place in the home list."""
        claim = self._claim
        if claim.contact_id is not None and claim.home_lookup_id is not None:
            return claim.contact_id, claim.home_lookup_id
        # It is this that was in doubt, or they were forgotten since: one look tells.
        self._has_joined = True
        self._see_that_it_may_begin()
        return await self._maker.joining.member(claim.ref, home, merges=merges)

    async def _transaction(self, home: str, contact_id: str, lookup_id: str) -> str:
        async def find() -> str | None:
            return await self._find_transaction(contact_id)

        async def make() -> str:
            return await self._make_transaction(home, contact_id)

        try:
            return await self._step("transaction", make, find)
        except Refused as error:
            joining, ref = self._maker.joining, self._claim.ref
            if isinstance(error, BY_THEMSELVES) or not await joining.miss_if_gone(
                ref, home, contact_id, lookup_id
            ):
                raise
            raise self._missed(error) from error

    def _missed(self, error: Refused) -> Unready:
        """What was known of the registrant from long before is not so any more: look for them."""
        return self.unready("contact-missing", f"the contact has to be looked for: {error}")

    async def _make_transaction(self, home: str, contact_id: str) -> str:
        key = str(self._claim.link.id)
        wanted = transaction_fields(self._claim, contact_id, home, self._maker.secrets[0])
        told = await self._upstream.create_transactions(self._maker.directory_id, {key: wanted})
        return told_of(told, key)

    async def _find_transaction(self, contact_id: str) -> str | None:
        found = await find_transaction(
            self._upstream,
            self._maker.directory_id,
            contact_id,
            self._claim,
            secrets=self._maker.secrets,
        )
        if found is None and not (self._claim.looked_enough or self._has_joined):
            raise StillUnknown("the transaction of an earlier call is not found yet", looked=True)
        return found

    async def _batch(self, transaction_id: str) -> str:
        async def make() -> str:
            return await self._upstream.create_batch(self._maker.directory_id, [transaction_id])

        return await self._step("batch", make, _nothing_tells)

    async def _distribution(self, batch_id: str, transaction_id: str) -> str:
        survey_id = self._claim.survey_id

        async def find() -> str | None:
            return await self._find_distribution(
                lambda known: known.list_id or known.batch_id, batch_id, transaction_id
            )

        async def make() -> str:
            return await self._upstream.create_batch_distribution(
                survey_id, batch_id, self._description, await self._end()
            )

        refused = self._maker.refused_until
        try:
            made = await self._distribute("distribution", make, find)
        except Unready:
            refused[survey_id] = asyncio.get_running_loop().time() + REFUSED_SECONDS
            raise
        refused.pop(survey_id, None)
        return made

    async def _data(self, home: str, contact_id: str, lookup_id: str) -> None:
        """The event's data, as those of the contact's place in the home list.

        Told twice they change nothing, and those of no other live link are there.
        """
        claim = self._claim

        async def make() -> str:
            private = embedded(claim, self._maker.secrets[0])
            fields = contact_fields(claim.ref, claim.details, private)
            await self._upstream.update_list_contact(
                self._maker.directory_id, home, contact_id, fields
            )
            return lookup_id

        if self._steps.get("data") != lookup_id:
            self._steps.pop("data", None)
            try:
                await self._step("data", make, _nothing_tells)
            except NotFound as error:
                await self._maker.joining.miss(claim.ref, lookup_id)
                raise self._missed(error) from error

    async def _own_distribution(self, home: str, lookup_id: str) -> str:
        async def find() -> str | None:
            return await self._find_distribution(
                lambda known: known.lookup_id if known.list_id == home else "", lookup_id, lookup_id
            )

        async def make() -> str:
            return await self._upstream.create_distribution(
                self._claim.survey_id,
                home,
                self._description,
                await self._end(),
                contact_id=lookup_id,
            )

        return await self._distribute("own_distribution", make, find)

    async def _find_distribution(
        self, stands_on: Callable[[Distribution], str | None], wanted: str, recipient: str
    ) -> str | None:
        """What an earlier call has made.

        No listing shows its description. It ends in the second that was written down, as another
        one may; what it stands on is told, or else its links are looked at.
        """
        if "end" not in self._steps or self._claim.looked_enough:
            return None
        async for known in self._upstream.distributions(self._claim.survey_id):
            if known.expires_at != self._expires_at:
                continue
            told = stands_on(known)
            if told == wanted or (
                told is None and await self._look(known.distribution_id, recipient)
            ):
                return known.distribution_id
        return None

    # --- what all steps have in common ----------------------------------------------------------

    async def _step(
        self,
        name: str,
        make: Callable[[], Awaitable[str]],
        find: Callable[[], Awaitable[str | None]],
    ) -> str:
        """What a step has made: as it is written down, or found, or made now; then written down."""
        if name in self._steps:
            return self._steps[name]
        made = await self._found(find, name) if self._in_doubt else None
        self._in_doubt = False
        if made is None:
            self._see_that_it_may_begin()
            made = await make()
            failpoints.reach("stepped", f"{name} of {self._claim.link.event_id}")
        await self._note(name, made)
        return made

    def _see_that_it_may_begin(self) -> None:
        """See whether a call that makes something may still begin."""
        if not self._claim.may_add:
            raise NothingThere("the registrant's contact has changed, or the link was revoked")
        if asyncio.get_running_loop().time() > self._begin_by:
            raise TooLate("the claim is too old for a call")

    async def _found(self, find: Callable[[], Awaitable[str | None]], name: str) -> str | None:
        # Distributions may be too many to read, and a second one is in nobody's way.
        many = name.endswith("distribution")
        async with looking(f"the {name}", until=self._begin_by, over_counts=many):
            return await find()

    async def _distribute(
        self,
        name: str,
        make: Callable[[], Awaitable[str]],
        find: Callable[[], Awaitable[str | None]],
    ) -> str:
        """The step of a distribution. What the platform refuses then is not this one event's."""
        try:
            return await self._step(name, make, find)
        except Refused as error:
            if isinstance(error, BY_THEMSELVES):
                raise
            raise self.unready(
                "distribution-refused",
                f"the platform makes no distribution of the survey now: {error}; milepost doctor "
                "says whether the survey is active, and doctor --probe what the account takes",
            ) from error

    async def _note(self, name: str, value: str) -> None:
        step = Step(
            id=self._claim.link.id,
            attempt=self._claim.attempt,
            name=name,
            value=value,
            contact=self._steps[CONTACT],
        )
        if not await self._maker.note(step):
            raise TooLate("the claim is somebody else's by now")
        self._steps[name] = value

    async def _end(self) -> datetime:
        """When the distribution is to end, written down: it is known again by that."""
        at = self._claim.claimed_at.replace(microsecond=0) + timedelta(days=self._claim.link_days)
        await self._note("end", f"{at.isoformat()} {self._claim.survey_id}")
        self._see_that_it_may_begin()  # to write it down may have taken its time
        return at

    @property
    def _expires_at(self) -> datetime:
        return datetime.fromisoformat(self._steps["end"].split()[0])

    @property
    def _description(self) -> str:
        return f"milepost {self._maker.deployment_id} link {self._claim.link.id}"

    # --- the link -------------------------------------------------------------------------------

    async def _listed(self, distribution_id: str, recipient: str) -> ListedLink:
        """The link as the platform lists it."""
        try:
            async with asyncio.timeout_at(self._begin_by + LISTING_SECONDS):
                listed = await self._look(distribution_id, recipient)
        except TimeoutError:
            listed = None
        if listed is None:
            raise self.unready("link-unlisted", "the platform does not list the link yet")
        return listed

    async def _look(self, distribution_id: str, recipient: str) -> ListedLink | None:
        links = self._upstream.distribution_links(distribution_id, self._claim.survey_id)
        async for listed in links:
            if recipient in {listed.transaction_id, listed.contact_id} or recipient in listed.link:
                return listed
        return None


async def _nothing_tells() -> None:
    """What became of the call cannot be asked, and need not be: it may be made again."""


def _trust(
    listed: ListedLink, survey_id: str, distribution_id: str, recipient: str, expires_at: datetime
) -> None:
    """Hold the platform's own link against what was made.

    Raises:
        NotAPersonalLink: it has a form that is not known.
        Untrusted: it is another one's, or ends too soon.
    """
    link = parse(listed.link)
    for what, found, made in (
        ("survey", link.survey_id, survey_id),
        ("distribution", link.distribution_id, distribution_id),
        ("recipient", link.lookup_id, recipient),
    ):
        if found != made:
            raise Untrusted(f"the platform's link names {what} {found} and not {made}")
    if listed.expires_at is not None and listed.expires_at < expires_at:
        raise Untrusted(f"the platform's link ends at {listed.expires_at:%Y-%m-%dT%H:%M:%SZ}")
