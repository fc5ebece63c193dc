"""Contacts, lists, and the rules by which the same person is known again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

# Annotated `Any`: conftest's classes cannot be imported under importlib mode.
Customer = Any
Start = Any

BASE62_ID = r"{}_[0-9A-Za-z]{{15}}"


def test_an_added_contact_has_its_ids_and_is_read_back(shared: Customer) -> None:
    """The answer holds both ids, the list shows the contact, numbers are text, blanks are gone."""
    path = shared.mailing_list()
    contact, lookup = shared.add(
        path,
        email="Ada@Example.com",
        firstName="Ada",
        extRef="r-ada",
        language="de",
        embeddedData={"n": 1.5, "big": 12345678901234567890, "null": None, "empty": "", "s": "x"},
        privateEmbeddedData={"order": "7"},
    )
    expected = {
        "contactId": contact,
        "firstName": "Ada",
        "lastName": None,
        "email": "Ada@Example.com",
        "phone": None,
        "extRef": "r-ada",
        "language": "de",
        "unsubscribed": False,
        "contactLookupId": lookup,
        "mailingListUnsubscribed": False,
    }
    embedded = {"n": "1.5", "big": "12345678901234567890", "s": "x"}
    assert shared.elements(f"{path}/contacts") == [expected]
    assert shared.elements(f"{path}/contacts?includeEmbedded=true") == [
        expected | {"embeddedData": embedded}
    ]
    assert shared.result("GET", f"{path}/contacts/{contact}") == expected | {
        "embeddedData": embedded,
        "privateEmbeddedData": {"order": "7"},
    }


def test_ids_have_the_platforms_form(shared: Customer) -> None:
    """Prefix, underscore, 15 base62 characters."""
    path = shared.mailing_list()
    contact, lookup = shared.add(path)
    ids = {
        "POOL": shared.ready.directory_id,
        "SV": shared.ready.survey_id,
        "CG": path.rsplit("/", 1)[1],
        "CID": contact,
        "CGC": lookup,
        "EMD": shared.distribute(path),
    }
    assert [one for one, made in ids.items() if not _is_id(one, made)] == []


def _is_id(prefix: str, made: str) -> bool:
    head, _, tail = made.partition("_")
    return head == prefix and len(tail) == 15 and tail.isalnum() and tail.isascii()


def test_a_seed_makes_ids_predictable(start: Start) -> None:
    """Two simulators with one seed make the same ids, a third with another does not."""
    made = [one.add(one.mailing_list()) for one in (start(seed=7), start(seed=7), start(seed=8))]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_same_list_again_keeps_the_lookup_id_and_overwrites(shared: Customer) -> None:
    """With deduplication a repeated add is an update, whatever the case of the address."""
    path = shared.mailing_list()
    first = shared.add(
        path,
        email="again@example.com",
        embeddedData={"kept": "1", "changed": "1"},
        privateEmbeddedData={"order": "1", "seat": "4"},
    )
    second = shared.add(
        path,
        email="AGAIN@example.com",
        embeddedData={"changed": "2"},
        privateEmbeddedData={"order": "2"},
    )
    assert second == first
    found = shared.result("GET", f"{path}/contacts/{first[0]}")
    assert found["embeddedData"] == {"kept": "1", "changed": "2"}
    assert found["privateEmbeddedData"] == {"order": "2"}


def test_one_person_in_two_lists_is_one_contact_with_two_lookup_ids(shared: Customer) -> None:
    """The lookup id is per contact and list; the directory contact names them all."""
    one, two = shared.mailing_list(), shared.mailing_list()
    first = shared.add(one, email="both@example.com")
    second = shared.add(two, email="both@example.com")
    assert first[0] == second[0]
    assert first[1] != second[1]
    found = shared.result("GET", f"{shared.directory}/contacts/{first[0]}")
    assert {
        mailing_list: member["contactLookupId"]
        for mailing_list, member in found["mailingListMembership"].items()
    } == {one.rsplit("/", 1)[1]: first[1], two.rsplit("/", 1)[1]: second[1]}


def test_without_deduplication_every_add_is_a_new_person(start: Start) -> None:
    """With no criteria nothing matches."""
    own = start(dedup=False)
    path = own.mailing_list()
    assert own.add(path, email="x@example.com") != own.add(path, email="x@example.com")
    assert own.elements("/directories")[0]["deduplicationCriteria"] == {
        "email": False,
        "firstName": False,
        "lastName": False,
        "externalDataReference": False,
        "phone": False,
    }


def test_several_criteria_must_all_match(own: Customer) -> None:
    """A person who lacks the value of a criterion matches nobody; contacts are compared anew."""
    path = own.mailing_list()
    before = own.add(path, email="a@example.com", extRef="1")
    criteria = {"email": True, "externalDataReference": True}
    own.control("PUT", "settings", {"deduplication_criteria": criteria})
    assert own.add(path, email="A@example.com", extRef="1") == before
    assert own.add(path, email="a@example.com", extRef="2") != before
    incomplete = own.add(path, email="a@example.com")
    assert own.add(path, email="a@example.com") not in (before, incomplete)
    assert incomplete != before
    assert own.elements("/directories")[0]["deduplicationCriteria"]["phone"] is False


def test_a_changed_address_is_the_one_that_matches(shared: Customer) -> None:
    """Deduplication follows the contact's present values."""
    path = shared.mailing_list()
    contact, lookup = shared.add(path, email="old@example.com")
    shared.result("PUT", f"{path}/contacts/{contact}", {"email": "new@example.com"})
    assert shared.add(path, email="new@example.com") == (contact, lookup)
    assert shared.add(path, email="old@example.com")[0] != contact


def test_a_put_changes_what_it_names(shared: Customer) -> None:
    """Null clears a field, what is not sent stays."""
    path = shared.mailing_list()
    contact, _ = shared.add(
        path,
        firstName="A",
        lastName="B",
        embeddedData={"a": "1", "b": "2"},
        privateEmbeddedData={"p": "1"},
    )
    shared.result(
        "PUT", f"{path}/contacts/{contact}", {"firstName": None, "embeddedData": {"a": None}}
    )
    found = shared.result("GET", f"{path}/contacts/{contact}")
    assert (found["firstName"], found["lastName"]) == (None, "B")
    assert found["embeddedData"] == {"b": "2"}
    assert found["privateEmbeddedData"] == {"p": "1"}


@pytest.mark.parametrize("again", ["post", "put"])
def test_unsubscribed_false_opts_in_again(shared: Customer, again: str) -> None:
    """A client that sends it on an existing contact undoes the opt-out."""
    path = shared.mailing_list()
    contact, _ = shared.add(path, email=f"out-{again}@example.com", unsubscribed=True)
    shared.add(path, email=f"out-{again}@example.com")
    member = f"{path}/contacts/{contact}"
    assert shared.result("GET", member)["unsubscribed"] is True
    if again == "post":
        shared.add(path, email=f"out-{again}@example.com", unsubscribed=False)
    else:
        shared.result("PUT", member, {"unsubscribed": False})
    assert shared.result("GET", member)["unsubscribed"] is False


def test_removal_from_a_list_leaves_the_directory_contact(shared: Customer) -> None:
    """The list contact is gone, the person stays, and coming back has a lookup id of its own."""
    path = shared.mailing_list()
    contact, lookup = shared.add(path, email="leaver@example.com")
    shared.add(path)
    shared.result("DELETE", f"{path}/contacts/{contact}")
    assert [one["contactId"] for one in shared.elements(f"{path}/contacts")] != [contact]
    found = shared.result("GET", f"{shared.directory}/contacts/{contact}")
    assert found["mailingListMembership"] == {}
    back = shared.add(path, email="leaver@example.com")
    assert back[0] == contact
    assert back[1] != lookup


def test_directory_contacts_have_their_own_life(shared: Customer) -> None:
    """Made, read, changed, and deleted with every membership."""
    contacts = f"{shared.directory}/contacts"
    contact = shared.result("POST", contacts, {"email": "dir@example.com", "phone": "1"})["id"]
    path = shared.mailing_list()
    assert shared.add(path, email="dir@example.com")[0] == contact
    shared.result("PUT", f"{contacts}/{contact}", {"phone": "2", "embeddedData": {"k": "v"}})
    found = shared.result("GET", f"{contacts}/{contact}")
    assert (found["phone"], found["embeddedData"]) == ("2", {"k": "v"})
    shared.result("DELETE", f"{contacts}/{contact}")
    assert shared.error("GET", f"{contacts}/{contact}")[0] == 404
    assert shared.elements(f"{path}/contacts") == []


def test_two_contacts_are_made_one(own: Customer) -> None:
    """By a person: the second has the values of the first and its places; the first is gone."""
    path, other = own.mailing_list(), own.mailing_list()
    first, lookup = own.add(path, email="a@example.com", extRef="a", embeddedData={"k": "1"})
    second, _ = own.add(other, email="b@example.com", firstName="Bea")
    own.control("POST", "merges", {"contact": first, "into": second})
    (member,) = own.elements(f"{path}/contacts?includeEmbedded=true")
    assert (member["contactId"], member["email"], member["extRef"]) == (
        second,
        "a@example.com",
        "a",
    )
    assert (member["firstName"], member["embeddedData"]) == ("Bea", {"k": "1"})
    assert member["contactLookupId"] != lookup
    assert own.error("GET", f"{own.directory}/contacts/{first}")[0] == 404
    assert own.add(path, email="A@example.com")[0] == second
    assert own.control("GET", "journal")["entries"][-2]["operation"] == "directory_contact.merge"
    refused = own.web.post("/control/merges", json={"contact": second, "into": second})
    assert refused.status_code == 400


def test_an_address_that_is_none_is_refused_on_demand(own: Customer) -> None:
    """By every call that takes one, and in an import it has failed."""
    path = own.mailing_list()
    contact, _ = own.add(path, email="no address")
    own.control("PUT", "settings", {"facts": {"any_email": False}})
    for method, where in (
        ("POST", f"{path}/contacts"),
        ("PUT", f"{path}/contacts/{contact}"),
        ("POST", f"{own.directory}/contacts"),
        ("PUT", f"{own.directory}/contacts/{contact}"),
    ):
        assert own.error(method, where, {"email": "none either"})[0] == 400
    body = {"contacts": [{"email": "none"}, {"email": "a@b"}, {"extRef": "r"}]}
    started = own.result("POST", f"{path}/transactioncontacts", body)
    found = own.result("GET", f"{path}/transactioncontacts/{started['id']}")
    assert found["contacts"]["count"] == {"added": 2, "updated": 0, "failed": 1}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"filterType": "extRef", "comparison": "eq", "value": "S-1"}, ["s-1"]),
        ({"filterType": "email", "comparison": "eq", "value": "S2@example.com"}, ["s-2"]),
        ({"filterType": "lastName", "comparison": "eq", "value": "search"}, ["s-1", "s-2"]),
        ({"filterType": "extRef", "comparison": "eq", "value": "nobody"}, []),
        (
            {
                "conjunction": "and",
                "filters": [
                    {"filterType": "lastName", "comparison": "eq", "value": "search"},
                    {"filterType": "extRef", "comparison": "eq", "value": "s-2"},
                ],
            },
            ["s-2"],
        ),
        (
            {
                "conjunction": "or",
                "filters": [
                    {"filterType": "extRef", "comparison": "eq", "value": "s-2"},
                    {"filterType": "extRef", "comparison": "eq", "value": "s-1"},
                ],
            },
            ["s-1", "s-2"],
        ),
    ],
)
def test_search(shared: Customer, wanted: dict[str, Any], found: list[str]) -> None:
    """One condition or several, without regard to case, in the order of making."""
    for number in (1, 2):
        body = {"email": f"s{number}@example.com", "extRef": f"s-{number}", "lastName": "Search"}
        shared.result("POST", f"{shared.directory}/contacts", body)
    answer = shared.result("POST", f"{shared.directory}/contacts/search", {"filter": wanted})
    assert [one["extRef"] for one in answer["elements"]] == found


def test_search_pages(own: Customer) -> None:
    """By `skipToken`, until there is no next page."""
    for number in range(3):
        own.result(
            "POST",
            f"{own.directory}/contacts",
            {"email": f"{number}@example.com", "lastName": "Same"},
        )
    search = f"{own.directory}/contacts/search?pageSize=2"
    body = {"filter": {"filterType": "lastName", "comparison": "eq", "value": "same"}}
    first = own.result("POST", search, body)
    rest = own.result("POST", f"{search}&skipToken={first['skipToken']}", body)
    found = [one["email"] for one in first["elements"] + rest["elements"]]
    assert found == [f"{number}@example.com" for number in range(3)]
    assert "skipToken" not in rest


def test_a_directorys_contacts_come_by_the_page(own: Customer) -> None:
    """All of them, whatever list they are in, in the order of making."""
    made = [own.result("POST", f"{own.directory}/contacts", {"email": "a@example.com"})["id"]]
    made += [own.add(own.mailing_list())[0] for _ in range(2)]
    first = own.result("GET", f"{own.directory}/contacts?pageSize=2")
    token = httpx.URL(first["nextPage"]).params["skipToken"]
    rest = own.elements(f"{own.directory}/contacts?pageSize=2&skipToken={token}")
    assert [one["contactId"] for one in first["elements"] + rest] == made


def test_mailing_lists_are_made_listed_changed_and_deleted(own: Customer) -> None:
    """The whole life of a list; deleted, it is 404 in the recorded words."""
    path = own.mailing_list()
    own.mailing_list()
    own.add(path)
    own.result("PUT", path, {"name": "renamed"})
    found = own.result("GET", path)
    assert (found["name"], found["contactCount"]) == ("renamed", 1)
    assert [one["name"] for one in own.elements(own.lists)] == ["renamed", "list 2"]
    own.result("DELETE", path)
    assert own.error("GET", path) == (
        404,
        {"errorMessage": "Mailing List not found", "errorCode": "PACC_6"},
    )
    assert own.result("GET", f"{own.directory}/mailinglists")["elements"][0]["name"] == "list 2"


def test_pages_neither_repeat_nor_hide_when_contacts_come_and_go(own: Customer) -> None:
    """Paging goes by key: a contact that leaves between two pages moves nobody."""
    path = own.mailing_list()
    contacts = [own.add(path)[0] for _ in range(7)]
    seen: list[str] = []
    url = f"{own.ready.url}{path}/contacts?pageSize=3"
    while url:
        assert url.startswith(own.ready.url)
        page = own.api.get(url).json()["result"]
        seen += [one["contactId"] for one in page["elements"]]
        if len(seen) == 3:
            own.result("DELETE", f"{path}/contacts/{contacts[2]}")
            contacts.append(own.add(path)[0])
        url = page["nextPage"]
    assert seen == contacts
