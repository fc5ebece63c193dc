"""Every write there is, by the name under which the journal knows it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from milepost.simulator import shapes
from milepost.simulator.things import Act, Outcome
from milepost.simulator.world import World


class Operation(Struct, frozen=True):
    """A kind of write: the shape of its body and the verb that does it."""

    verb: Callable[[World, Act], Outcome]
    shape: type[Struct] = shapes.Nothing


OPERATIONS: dict[str, Operation] = {
    "directory_contact.add": Operation(World.add_contact, shapes.ContactBody),
    "directory_contact.update": Operation(World.update_contact, shapes.ContactChange),
    "directory_contact.delete": Operation(World.delete_contact),
    "list_contact.add": Operation(World.add_list_contact, shapes.ListContactBody),
    "list_contact.update": Operation(World.update_list_contact, shapes.ListContactChange),
    "list_contact.remove": Operation(World.remove_list_contact),
    "mailing_list.create": Operation(World.create_list, shapes.MailingListBody),
    "mailing_list.update": Operation(World.update_list, shapes.MailingListChange),
    "mailing_list.delete": Operation(World.delete_list),
    "distribution.create": Operation(World.create_distribution, shapes.DistributionBody),
    "distribution.delete": Operation(World.delete_distribution),
    "session.start": Operation(World.start_session, shapes.Opening),
    "response.complete": Operation(World.complete_response, shapes.Answers),
    "account.found": Operation(World.found, shapes.Founding),
    "account.settings": Operation(World.set_settings, shapes.WorldSettings),
    "account.clock": Operation(World.set_clock, shapes.ClockSetting),
}
"""Every write there is, by the name under which the journal knows it."""
