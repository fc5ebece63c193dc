"""Imports: many contacts brought into a list by one call, in the background.

An import is two kinds of write. `import.start` takes the contacts and changes nothing else;
`import.advance` brings the next of them in, so that what is in the list at a moment stands in the
journal. Who calls it when is the account's business, not the world's.
"""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import UNSET

from milepost.simulator import shapes, transactions
from milepost.simulator.things import Act, Import, Outcome
from milepost.simulator.wire import Refusal
from milepost.simulator.world import World


def start(world: World, act: Act) -> Outcome:
    """Begin an import; a list has one at a time (documented), the status for a second is ours."""
    mailing_list = world.mailing_list(act.ids)
    body: shapes.ImportBody = act.body
    meta = body.transaction_meta
    if meta.batch_id is not UNSET:
        transactions.batch(world, {"directory": world.directory_id, "batch": meta.batch_id})
    if any(one.waiting and one.list_id == mailing_list.id for one in world.imports.values()):
        raise Refusal(409, "An import into this mailing list is in progress")
    made = Import(
        id=act.mint("PGRS"),
        list_id=mailing_list.id,
        started_at=act.at,
        ends_at=act.at + round(world.facts.import_seconds * 1000),
        total=len(body.contacts),
        waiting=body.contacts,
        batch_id=None if meta.batch_id is UNSET else meta.batch_id,
        fields=None if meta.fields is UNSET else meta.fields,
    )
    world.imports[made.id] = made
    return Outcome(made, {"import": made.id})


def advance(world: World, act: Act) -> Outcome:
    """Bring the next contacts in, each as if it had been added alone; what is refused has failed.

    If the list has been deleted, all that are left fail.
    """
    found = world.imports[act.ids["import"]]
    body: shapes.Advance = act.body
    taken, found.waiting = found.waiting[: body.contacts], found.waiting[body.contacts :]
    ids = {"directory": world.directory_id, "mailing_list": found.list_id}
    for contact in taken:
        fields = {name: getattr(contact, name) for name in shapes.ContactBody.__struct_fields__}
        added = Act(act.at, ids, shapes.ListContactBody(**fields), act.mint)
        try:
            outcome = world.add_list_contact(added)
            if isinstance(contact.transaction_data, dict):
                _add_transaction(world, act, found, outcome, contact.transaction_data)
        except Refusal:
            found.failed += 1
            continue
        if outcome.effect == "list_contact_modified":
            found.updated += 1
        else:
            found.added += 1
    return Outcome()


def _add_transaction(
    world: World, act: Act, found: Import, outcome: Outcome, data: shapes.Embedded
) -> None:
    """Make the transaction that a contact brings; its date is the moment (inferred)."""
    body = shapes.TransactionBody(
        contact_id=outcome.ids["contact"],
        mailing_list_id=found.list_id,
        transaction_date=datetime.fromtimestamp(act.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        data={
            name: value
            for name, value in data.items()
            if found.fields is None or name in found.fields
        },
    )
    made = transactions.add(world, act, body)
    found.transactions += 1
    if found.batch_id is not None:
        ids = {"directory": world.directory_id, "batch": found.batch_id}
        addition = shapes.BatchAddition(transaction_ids=[made.id])
        transactions.add_to_batch(world, Act(act.at, ids, addition, act.mint))


def of(world: World, ids: dict[str, str]) -> Import:
    """The import of a path."""
    world.mailing_list(ids)
    found = world.imports.get(ids["import"])
    if found is None or found.list_id != ids["mailing_list"]:
        raise Refusal(404, "Import not found")
    return found
