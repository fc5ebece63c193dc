"""Every write there is, by the name under which the journal knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from milepost.simulator import (
    distributions,
    imports,
    shapes,
    subscriptions,
    transactions,
    visits,
)
from milepost.simulator.things import Act, Outcome
from milepost.simulator.world import World


class Operation(Struct, frozen=True):
    """A kind of write: the shape of its body and the verb that does it."""

    verb: Callable[[World, Act], Outcome]
    shape: Any = shapes.Nothing


OPERATIONS: dict[str, Operation] = {
    "directory_contact.add": Operation(World.add_contact, shapes.ContactBody),
    "directory_contact.update": Operation(World.update_contact, shapes.ContactChange),
    "directory_contact.delete": Operation(World.delete_contact),
    "directory_contact.merge": Operation(World.merge_contacts),
    "list_contact.add": Operation(World.add_list_contact, shapes.ListContactBody),
    "list_contact.update": Operation(World.update_list_contact, shapes.ListContactChange),
    "list_contact.remove": Operation(World.remove_list_contact),
    "mailing_list.create": Operation(World.create_list, shapes.MailingListBody),
    "mailing_list.update": Operation(World.update_list, shapes.MailingListChange),
    "mailing_list.delete": Operation(World.delete_list),
    "distribution.create": Operation(distributions.create, shapes.DistributionBody),
    "distribution.delete": Operation(distributions.delete),
    "distribution.list_links": Operation(distributions.note_listing, shapes.Listing),
    "transaction.create": Operation(transactions.create, shapes.Transactions),
    "transaction.update": Operation(transactions.update, shapes.TransactionChange),
    "transaction.append": Operation(transactions.append, shapes.TransactionAppendix),
    "transaction.delete": Operation(transactions.delete),
    "transaction_batch.create": Operation(transactions.create_batch, shapes.BatchBody),
    "transaction_batch.add": Operation(transactions.add_to_batch, shapes.BatchAddition),
    "transaction_batch.remove": Operation(transactions.remove_from_batch),
    "transaction_batch.delete": Operation(transactions.delete_batch),
    "import.start": Operation(imports.start, shapes.ImportBody),
    "import.advance": Operation(imports.advance, shapes.Advance),
    "subscription.create": Operation(subscriptions.create, shapes.SubscriptionBody),
    "subscription.delete": Operation(subscriptions.delete),
    "session.start": Operation(visits.start, shapes.Opening),
    "response.complete": Operation(visits.complete, shapes.Answers),
    "account.found": Operation(World.found, shapes.Founding),
    "account.settings": Operation(World.set_settings, shapes.WorldSettings),
    "account.clock": Operation(World.set_clock, shapes.ClockSetting),
}
"""Every write there is, by the name under which the journal knows it."""
