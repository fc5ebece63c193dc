"""The account, its directory, contacts, mailing lists, and the contacts in them."""

from __future__ import annotations

from typing import Any

import msgspec

from milepost.simulator import shapes
from milepost.simulator.call import BRAND_ID, Call, Endpoint, writes
from milepost.simulator.things import Contact, MailingList, Membership
from milepost.simulator.wire import page, read, second
from milepost.simulator.world import LISTED_LISTS

_SEARCH = msgspec.json.Decoder(shapes.Search)


async def whoami(call: Call) -> object:
    """Who the token belongs to."""
    return {
        "brandId": BRAND_ID,
        "userId": call.account.world.owner_id,
        "userName": "simulator",
        "accountType": "UT_BRANDADMIN",
        "firstName": "Survey",
        "lastName": "Simulator",
        "email": "simulator@example.com",
        "datacenter": "simulator",
    }


async def directories(call: Call) -> object:
    """The one directory, and what it takes for the same person."""
    world = call.account.world
    directory = {
        "directoryId": world.directory_id,
        "name": "Simulated directory",
        "contactCount": len(world.contacts.in_order),
        "isDefault": True,
        "deduplicationCriteria": world.criteria,
    }
    return {"elements": [directory], "nextPage": None}


def person(contact: Contact) -> dict[str, object]:
    """A contact as listings and searches show them (observed in listings of a list)."""
    return {
        "contactId": contact.id,
        "firstName": contact.first_name,
        "lastName": contact.last_name,
        "email": contact.email,
        "phone": contact.phone,
        "extRef": contact.ext_ref,
        "language": contact.language,
        "unsubscribed": contact.unsubscribed,
    }


async def directory_contact(call: Call) -> object:
    """One contact, with the lists it is in."""
    contact = call.account.world.contact(call.ids)
    lists = call.account.world.lists
    membership = {}
    for member in contact.memberships:
        membership[member.list_id] = {
            "contactLookupId": member.id,
            "name": lists[member.list_id].name,
            "unsubscribed": False,
            "unsubscribeDate": None,
        }
    return person(contact) | {
        "creationDate": second(contact.created_at),
        "lastModified": second(contact.modified_at),
        "directoryUnsubscribed": contact.unsubscribed,
        "embeddedData": contact.embedded or {},
        "mailingListMembership": membership,
    }


async def search_contacts(call: Call) -> object:
    """The contacts that match a filter; the next page is named by its token (seen in clients)."""
    call.account.world.check_directory(call.ids["directory"])
    wanted = read(_SEARCH, call.body).filter
    shape = shapes.Conjunction if "conjunction" in wanted else shapes.Condition
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(shape)
    conditions = read(decoder, msgspec.json.encode(wanted))
    found, token = page(call.account.world.search(conditions, call.account.now()), call.query)
    following = {} if token is None else {"skipToken": token}
    return {"elements": [person(each) for each in found]} | following


async def directory_contacts(call: Call) -> object:
    """The directory's contacts, in the order in which they were made."""
    call.account.world.check_directory(call.ids["directory"])
    return call.paged(call.account.world.contacts.in_order, person)


def _list_contact(call: Call, member: Membership) -> dict[str, object]:
    contact = call.account.world.contacts[member.contact_id]
    shown = person(contact)
    shown["contactLookupId"] = member.id
    shown["mailingListUnsubscribed"] = False
    if call.query.get("includeEmbedded", "").lower() == "true":
        shown["embeddedData"] = contact.embedded or {}
    return shown


async def list_contacts(call: Call) -> object:
    """A list's contacts, in the order in which they were added."""
    members = call.account.world.mailing_list(call.ids).members
    return call.paged(members, lambda member: _list_contact(call, member))


async def list_contact(call: Call) -> object:
    """One contact of a list, with its data."""
    contact, member = call.account.world.list_contact(call.ids)
    return _list_contact(call, member) | {
        "embeddedData": contact.embedded or {},
        "privateEmbeddedData": member.private or {},
    }


def _mailing_list(found: MailingList) -> dict[str, object]:
    return {
        "mailingListId": found.id,
        "name": found.name,
        "ownerId": found.owner_id,
        "creationDate": second(found.created_at),
        "lastModifiedDate": second(found.modified_at),
        "contactCount": len(found.members),
    }


async def mailing_lists(call: Call) -> object:
    """The directory's lists; those beyond the first 10,000 are not listed (documented)."""
    call.account.world.check_directory(call.ids["directory"])
    return call.paged(call.account.world.lists.in_order[:LISTED_LISTS], _mailing_list)


async def mailing_list(call: Call) -> object:
    """One list."""
    return _mailing_list(call.account.world.mailing_list(call.ids))


_DIRECTORY = "/directories/{directory:str}"
_CONTACTS = f"{_DIRECTORY}/contacts"
_CONTACT = f"{_CONTACTS}/{{contact:str}}"
_LISTS = f"{_DIRECTORY}/mailinglists"
_LIST = f"{_LISTS}/{{mailing_list:str}}"
_MEMBERS = f"{_LIST}/contacts"
_MEMBER = f"{_MEMBERS}/{{contact:str}}"

ENDPOINTS = (
    Endpoint("GET", "/whoami", "account", whoami),
    Endpoint("GET", "/directories", "directories", directories),
    Endpoint("POST", _CONTACTS, "directory_contacts", writes("directory_contact.add")),
    Endpoint("GET", _CONTACTS, "directory_contacts", directory_contacts),
    Endpoint("POST", f"{_CONTACTS}/search", "directory_contacts", search_contacts, reads=True),
    Endpoint("GET", _CONTACT, "directory_contacts", directory_contact),
    Endpoint("PUT", _CONTACT, "directory_contacts", writes("directory_contact.update")),
    Endpoint("DELETE", _CONTACT, "directory_contacts", writes("directory_contact.delete")),
    Endpoint("POST", _LISTS, "mailing_lists", writes("mailing_list.create")),
    Endpoint("GET", _LISTS, "mailing_lists", mailing_lists),
    Endpoint("GET", _LIST, "mailing_lists", mailing_list),
    Endpoint("PUT", _LIST, "mailing_lists", writes("mailing_list.update")),
    Endpoint("DELETE", _LIST, "mailing_lists", writes("mailing_list.delete")),
    Endpoint("POST", _MEMBERS, "list_contacts", writes("list_contact.add")),
    Endpoint("GET", _MEMBERS, "list_contacts", list_contacts),
    Endpoint("GET", _MEMBER, "list_contacts", list_contact),
    Endpoint("PUT", _MEMBER, "list_contacts", writes("list_contact.update")),
    Endpoint("DELETE", _MEMBER, "list_contacts", writes("list_contact.remove")),
)
