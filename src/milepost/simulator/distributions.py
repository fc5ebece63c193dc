"""Distributions: how they are made, and who has a link of one, from when on.

A distribution stands on a mailing list, on one contact of it, or on a transaction batch. Its
recipients are who is in there now, and those who came *late*, after it was made, are where nobody
knows much: `late_link`, `late_transaction`, `history_links` and `links_lag_seconds` answer for
them. Being shown in a list of links is an event of its own: it counts for the contact's frequency
rule (documented), and may be what first makes a late link one that opens.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UnsetType

from milepost.simulator import shapes
from milepost.simulator.things import (
    Act,
    Batch,
    Distribution,
    MailingList,
    Outcome,
    Recipient,
)
from milepost.simulator.wire import Refusal, moment, place_after
from milepost.simulator.world import World

DAY_MS = 86_400_000

DEFAULT_LINK_DAYS = 60
"""A distribution without an expiration date: its links live so long, to the second (observed)."""

ON_LIST = "CreateDistribution"
ON_BATCH = "CreateTransactionBatchDistribution"


def create(world: World, act: Act) -> Outcome:
    """Generate links for a list, for one contact of it, or for a transaction batch."""
    body: shapes.DistributionBody = act.body
    survey = world.surveys.get(body.survey_id)
    if survey is None:
        raise Refusal(400, "Invalid surveyId parameter. Survey not found")
    if not survey.active:
        raise Refusal(400, "Invalid surveyId parameter. Survey is not active")
    mailing_list = batch = only = None
    if _is_on_batch(world, body):
        batch = _batch(world, body)
    else:
        mailing_list = _mailing_list(world, body)
        only = _only(world, body, mailing_list)
    # Before anything is made: a place in the order that a refusal took would be free in a replay.
    expires_at = _expiry(body.expiration_date, act.at, world.facts.longest_expiry_days)
    made = Distribution(
        id=act.mint("EMD"),
        ordinal=world.next_ordinal(),
        survey_id=survey.id,
        list_id=None if mailing_list is None else mailing_list.id,
        batch_id=None if batch is None else batch.id,
        link_type=body.link_type,
        description=body.description,
        created_at=act.at,
        expires_at=expires_at,
        only=only,
    )
    world.distributions.add(made.id, made)
    ids = {"distribution": made.id}
    if mailing_list is not None:
        ids["mailing_list"] = mailing_list.id
    if batch is not None:
        ids["batch"] = batch.id
    return Outcome({"id": made.id}, ids)


def _is_on_batch(world: World, body: shapes.DistributionBody) -> bool:
    action = body.action.lower()
    if action == ON_LIST.lower():
        if isinstance(body.transaction_batch_id, str):
            raise Refusal(400, "Unexpected json key provided: transactionBatchId")
        return False
    if action != ON_BATCH.lower():
        raise Refusal(400, f"Invalid action parameter. Must be {ON_LIST} or {ON_BATCH}")
    if not world.facts.transaction_batch:
        raise Refusal(400, "Unexpected json key provided: transactionBatchId")
    return True


def _batch(world: World, body: shapes.DistributionBody) -> Batch:
    if isinstance(body.contact_id, str):
        raise Refusal(400, "Unexpected json key provided: contactId")
    if not isinstance(body.transaction_batch_id, str):
        raise Refusal(400, "Missing required parameter: transactionBatchId")
    batch = world.batches.get(body.transaction_batch_id)
    if batch is None:
        raise Refusal(400, "Invalid transactionBatchId parameter. Transaction batch not found")
    return batch


def _mailing_list(world: World, body: shapes.DistributionBody) -> MailingList:
    if not isinstance(body.mailing_list_id, str):
        raise Refusal(400, "Missing required parameter: mailingListId")
    mailing_list = world.lists.get(body.mailing_list_id)
    if mailing_list is None:
        raise Refusal(400, "Invalid mailingListId parameter. Mailing list not found", "GP_0")
    return mailing_list


def _only(world: World, body: shapes.DistributionBody, mailing_list: MailingList) -> str | None:
    """The lookup id of the one contact meant; without one the list must have enough of them."""
    if isinstance(body.contact_id, str):
        member = world.memberships.get(body.contact_id)
        if member is None or member.list_id != mailing_list.id:
            raise Refusal(400, "Invalid contactId parameter. Contact not found in mailing list")
        return member.id
    needed = 0 if world.facts.empty_distribution else 1
    if not world.facts.probe_only_distribution:
        needed = 2
    if len(mailing_list.members) < needed:
        raise Refusal(400, "Invalid mailingListId parameter. Not enough contacts in mailing list")
    return None


def _expiry(text: str | UnsetType | None, at: int, longest_days: int) -> int:
    if not isinstance(text, str):
        return at // 1000 * 1000 + DEFAULT_LINK_DAYS * DAY_MS
    try:
        expires_at = moment(text)
    except ValueError as error:
        raise Refusal(400, "Invalid expirationDate parameter. Must be an ISO 8601 date") from error
    if expires_at > at + longest_days * DAY_MS:
        raise Refusal(400, f"Invalid expirationDate parameter. At most {longest_days} days ahead")
    return expires_at


def delete(world: World, act: Act) -> Outcome:
    """Delete a distribution; its links break (inferred), its responses stay."""
    world.distributions.remove(world.distribution(act.ids).id)
    return Outcome()


def recipients(world: World, distribution: Distribution) -> Sequence[Recipient]:
    """Who is among the recipients now: those who came late included (observed for lists)."""
    if distribution.batch_id is not None:
        batch = world.batches.get(distribution.batch_id)
        entries = batch.entries.in_order if batch is not None else []
        if world.facts.late_transaction:
            return entries
        return entries[: place_after(entries, distribution.ordinal)]
    if distribution.only is not None:
        member = world.memberships.get(distribution.only)
        return [] if member is None else [member]
    mailing_list = world.lists.get(distribution.list_id or "")
    return [] if mailing_list is None else mailing_list.members


def recipient(world: World, distribution: Distribution, recipient_id: str) -> Recipient | None:
    """The recipient whose link of this distribution names that id, if that link opens."""
    if distribution.batch_id is not None:
        batch = world.batches.get(distribution.batch_id)
        entry = None if batch is None else batch.entries.get(recipient_id)
        late = entry is not None and entry.ordinal > distribution.ordinal
        return None if late and not world.facts.late_transaction else entry
    member = world.memberships.get(recipient_id)
    if (
        member is None
        or member.list_id != distribution.list_id
        or distribution.only not in (None, member.id)
        or not (world.facts.late_link or _is_known(distribution, member))
    ):
        return None
    return member


def listed(world: World, distribution: Distribution, at: int) -> Sequence[Recipient]:
    """Whose links a list of links shows at a moment: incomplete lists have been seen (observed)."""
    found = recipients(world, distribution)
    lag = round(world.facts.links_lag_seconds * 1000)
    if not lag:
        return found
    return [one for one in found if max(one.added_at, distribution.created_at) + lag <= at]


def in_history(world: World, distribution: Distribution) -> Sequence[Recipient]:
    """Of whose links history tells."""
    found = recipients(world, distribution)
    if world.facts.history_links:
        return found
    return [one for one in found if _is_known(distribution, one)]


def _is_known(distribution: Distribution, one: Recipient) -> bool:
    """Whether the distribution knows of a recipient by being made, or by having been listed."""
    return one.ordinal <= max(distribution.ordinal, distribution.listed_up_to)


def note_listing(world: World, act: Act) -> Outcome:
    """Count a page of links that was given out, for each contact on it who was not on one yet."""
    body: shapes.Listing = act.body
    distribution = world.distribution({"distribution": body.distribution})
    found = recipients(world, distribution)
    first = place_after(found, distribution.listed_up_to)
    for one in found[first : place_after(found, body.up_to)]:
        world.contacts[one.contact_id].times_listed += 1
    distribution.listed_up_to = max(distribution.listed_up_to, body.up_to)
    return Outcome()
