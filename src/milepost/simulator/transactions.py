"""Transactions and their batches: what happened to contacts, and groups of it to ask about.

A transaction belongs to a contact and names a list that the contact is in. A batch refers to
transactions; a transaction can be in several. Many come in one call, and each is taken or refused
by itself: a call that succeeds may hold refusals (seen in several clients).
"""

from __future__ import annotations

import re
from datetime import datetime

from msgspec import UNSET

from milepost.simulator import shapes
from milepost.simulator.things import Act, Batch, BatchEntry, Outcome, Shelf, Transaction
from milepost.simulator.wire import Refusal, moment
from milepost.simulator.world import World, check_embedded, stored

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")


def create(world: World, act: Act) -> Outcome:
    """Make transactions, each of a contact who is in the list that it names."""
    world.check_directory(act.ids["directory"])
    _check_count(world, len(act.body))
    made: dict[str, dict[str, str]] = {}
    refused: dict[str, dict[str, str]] = {}
    ids: dict[str, str] = {}
    for key, body in act.body.items():
        try:
            transaction = add(world, act, body)
        except Refusal as refusal:
            refused[key] = {"error": "Bad Request", "errorMessage": refusal.message}
        else:
            made[key] = {"id": transaction.id}
            ids[f"transaction.{key}"] = transaction.id
    effect = "some_created" if made and refused else "created" if made else "none_created"
    return Outcome({"createdTransactions": made, "unprocessedTransactions": refused}, ids, effect)


def add(world: World, act: Act, body: shapes.TransactionBody) -> Transaction:
    """Make one transaction.

    Raises:
        Refusal: It is not made, and nothing has changed.
    """
    contact = world.contacts.get(body.contact_id)
    if contact is None:
        raise Refusal(400, "Invalid contactId parameter. Contact not found")
    if contact.membership_in(body.mailing_list_id) is None:
        raise Refusal(400, "Invalid mailingListId parameter. Contact not found in mailing list")
    _check_date(body.transaction_date)
    check_embedded(body.data)
    made = Transaction(
        id=act.mint("CTR"),
        ordinal=world.next_ordinal(),
        contact_id=contact.id,
        list_id=body.mailing_list_id,
        date=body.transaction_date,
        data=stored(body.data) if isinstance(body.data, dict) else {},
    )
    world.transactions[made.id] = made
    contact.transactions += (made.id,)
    return made


def transaction(world: World, ids: dict[str, str]) -> Transaction:
    """The transaction of a path."""
    world.check_directory(ids["directory"])
    found = world.transactions.get(ids["transaction"])
    if found is None:
        raise Refusal(404, "Transaction not found")
    return found


def of_contact(world: World, ids: dict[str, str]) -> list[Transaction]:
    """A contact's transactions, in the order in which they were made."""
    return [world.transactions[one] for one in world.contact(ids).transactions]


def update(world: World, act: Act) -> Outcome:
    """Change a transaction's date, or its data as a whole (inferred)."""
    found = transaction(world, act.ids)
    body: shapes.TransactionChange = act.body
    check_embedded(body.data)
    if isinstance(body.transaction_date, str):
        _check_date(body.transaction_date)
        found.date = body.transaction_date
    if body.data is not UNSET:
        found.data = stored(body.data) if isinstance(body.data, dict) else {}
    return Outcome()


def append(world: World, act: Act) -> Outcome:
    """Give a transaction more data; those of the same name are overwritten (inferred)."""
    found = transaction(world, act.ids)
    check_embedded(act.body.data)
    found.data = found.data | stored(act.body.data)
    return Outcome()


def delete(world: World, act: Act) -> Outcome:
    """Delete a transaction, out of its batches too; its links break (inferred)."""
    found = transaction(world, act.ids)
    contact = world.contacts[found.contact_id]
    contact.transactions = tuple(one for one in contact.transactions if one != found.id)
    world.forget_transaction(found.id)
    return Outcome()


def create_batch(world: World, act: Act) -> Outcome:
    """Make a batch of transactions, or an empty one."""
    world.check_directory(act.ids["directory"])
    body: shapes.BatchBody = act.body
    created_at = act.at
    if isinstance(body.creation_date, str):
        try:
            created_at = moment(body.creation_date)
        except ValueError as error:
            words = "Invalid creationDate parameter. Must be an ISO 8601 date"
            raise Refusal(400, words) from error
    wanted = body.transaction_ids if isinstance(body.transaction_ids, list) else []
    found = _transactions(world, wanted)
    made = Batch(
        id=act.mint("BT"), ordinal=world.next_ordinal(), created_at=created_at, entries=Shelf()
    )
    world.batches.add(made.id, made)
    _enter(world, made, found, act.at)
    return Outcome({"id": made.id}, {"batch": made.id})


def batch(world: World, ids: dict[str, str]) -> Batch:
    """The batch of a path."""
    world.check_directory(ids["directory"])
    found = world.batches.get(ids["batch"])
    if found is None:
        raise Refusal(404, "Transaction batch not found")
    return found


def add_to_batch(world: World, act: Act) -> Outcome:
    """Add transactions to a batch: all, or none if one is unknown (inferred)."""
    _enter(world, batch(world, act.ids), _transactions(world, act.body.transaction_ids), act.at)
    return Outcome()


def remove_from_batch(world: World, act: Act) -> Outcome:
    """Take a transaction out of a batch; it goes on to exist."""
    found = batch(world, act.ids)
    if found.entries.get(act.ids["transaction"]) is None:
        raise Refusal(404, "Transaction not found in batch")
    found.entries.remove(act.ids["transaction"])
    entered = world.transactions[act.ids["transaction"]]
    entered.batch_ids = tuple(one for one in entered.batch_ids if one != found.id)
    return Outcome()


def delete_batch(world: World, act: Act) -> Outcome:
    """Delete a batch: its links break, its transactions stay (inferred)."""
    found = batch(world, act.ids)
    for entry in found.entries:
        entered = world.transactions[entry.id]
        entered.batch_ids = tuple(one for one in entered.batch_ids if one != found.id)
    world.batches.remove(found.id)
    return Outcome()


def _transactions(world: World, wanted: list[str]) -> list[Transaction]:
    _check_count(world, len(wanted))
    found = []
    for one in wanted:
        known = world.transactions.get(one)
        if known is None:
            raise Refusal(400, f"Invalid transactionIds parameter. Transaction not found: {one}")
        found.append(known)
    return found


def _enter(world: World, into: Batch, wanted: list[Transaction], at: int) -> None:
    for one in wanted:
        if into.entries.get(one.id) is None:
            entry = BatchEntry(one.id, world.next_ordinal(), one.contact_id, at)
            into.entries.add(one.id, entry)
            one.batch_ids += (into.id,)


def _check_count(world: World, count: int) -> None:
    if count > world.facts.transactions_per_call:
        raise Refusal(413, f"At most {world.facts.transactions_per_call} transactions per call")


def _check_date(text: str) -> None:
    """Refuse a date that is not `YYYY-MM-DD HH:MM:SS`, which is UTC (seen in several clients)."""
    words = "Invalid transactionDate parameter. Must be YYYY-MM-DD HH:MM:SS"
    if not _DATE.fullmatch(text):
        raise Refusal(400, words)
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(400, words) from error
