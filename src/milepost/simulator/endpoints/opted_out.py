"""Who wants to hear nothing more: of the directory, and of one list.

Opting out is the directory's matter here: nothing is known of how a contact leaves one list alone.
"""

from __future__ import annotations

from milepost.simulator.call import Call, Endpoint
from milepost.simulator.endpoints.directory import person
from milepost.simulator.things import Contact


def _shown(contact: Contact) -> dict[str, object]:
    return person(contact) | {"directoryUnsubscribed": True}


async def opted_out_contacts(call: Call) -> object:
    """The directory's contacts who opted out."""
    world = call.account.world
    world.check_directory(call.ids["directory"])
    return call.paged([one for one in world.contacts if one.unsubscribed], _shown)


async def opted_out_list_contacts(call: Call) -> object:
    """A list's contacts who opted out."""
    world = call.account.world
    members = world.mailing_list(call.ids).members
    opted_out = [one for one in members if world.contacts[one.contact_id].unsubscribed]
    return call.paged(
        opted_out,
        lambda member: _shown(world.contacts[member.contact_id]) | {"contactLookupId": member.id},
    )


_DIRECTORY = "/directories/{directory:str}"
_LIST = f"{_DIRECTORY}/mailinglists/{{mailing_list:str}}"

ENDPOINTS = (
    Endpoint(
        "GET",
        f"{_DIRECTORY}/contacts/optedOutContacts",
        "directory_contacts",
        opted_out_contacts,
    ),
    Endpoint("GET", f"{_LIST}/contacts/optedOutContacts", "list_contacts", opted_out_list_contacts),
)
