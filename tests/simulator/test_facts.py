"""What nobody knows of the platform: each fact answered either way, and what differs then."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from milepost.simulator.facts import Facts

# Annotated `Any`: conftest's classes cannot be imported under importlib mode.
Customer = Any
Start = Any
State = Callable[[httpx.Response], str]


def turn(customer: Customer, **facts: object) -> None:
    """Answer some facts otherwise from now on."""
    customer.control("PUT", "settings", {"facts": facts})


def distribution_body(customer: Customer, path: str) -> dict[str, object]:
    """What makes a distribution on a list."""
    return {
        "surveyId": customer.ready.survey_id,
        "linkType": "Individual",
        "description": "ours",
        "action": "CreateDistribution",
        "mailingListId": path.rsplit("/", 1)[1],
    }


def test_facts_are_changed_one_by_one_and_kept(start: Start, tmp_path: Any) -> None:
    """What is not sent stays, a restart keeps all, and what it is started with comes on top."""
    first = start(state=tmp_path / "state", facts={"url_wins": "false"})
    turn(first, search_lag_seconds=5)
    turn(first, link_format="2019")
    expected = {"url_wins": False, "search_lag_seconds": 5.0, "link_format": "2019"}
    found = first.control("GET", "settings")["facts"]
    assert {name: found[name] for name in expected} == expected
    first.stop()
    again = start(state=tmp_path / "state", facts={"link_format": "2020"})
    found = again.control("GET", "settings")["facts"]
    assert {name: found[name] for name in expected} == expected | {"link_format": "2020"}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"wishes": True}, "unknown fact 'wishes'"),
        ({"late_link": "perhaps"}, "late_link"),
        ({"link_format": "2050"}, "link_format"),
        ({"transactions_per_call": 0}, "transactions_per_call"),
        ({"links_lag_seconds": -1}, "links_lag_seconds"),
        ({"late_link": None}, "late_link"),
    ],
)
def test_a_wrong_fact_is_refused_by_name(
    shared: Customer, facts: dict[str, object], words: str
) -> None:
    """And none of those that came with it is taken."""
    answer = shared.web.put("/control/settings", json={"facts": {"url_wins": False} | facts})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert shared.control("GET", "settings")["facts"]["url_wins"] is True


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [("late_link", "false", False), ("import_seconds", "2.5", 2.5), ("throttle", "html", "html")],
)
def test_a_fact_is_read_from_a_command_line(name: str, value: str, kept: object) -> None:
    """Where everything is text."""
    assert getattr(Facts().but({name: value}), name) == kept


@pytest.mark.parametrize(
    ("facts", "taken"),
    [
        ({}, [True, True, True]),
        ({"empty_distribution": False}, [False, True, True]),
        ({"probe_only_distribution": False}, [False, False, True]),
        ({"empty_distribution": False, "probe_only_distribution": False}, [False, False, True]),
    ],
)
def test_how_many_contacts_a_distribution_needs(
    own: Customer, facts: dict[str, bool], taken: list[bool]
) -> None:
    """On a list with none, one and two of them; for a single contact one is enough."""
    turn(own, **facts)
    path = own.mailing_list()
    body = distribution_body(own, path)
    found = []
    for _ in range(3):
        found.append(own.api.post("/distributions", json=body).status_code == 200)
        lookup = own.add(path)[1]
    assert found == taken
    assert own.distribute(path, contactId=lookup)


def late(customer: Customer) -> tuple[str, str, str]:
    """A distribution, a link of it that the platform lists, and a built one of who came late."""
    path = customer.mailing_list()
    probe = customer.add(path)[1]
    distribution = customer.distribute(path)
    listed = customer.links(distribution)[0]
    lookup = customer.add(path)[1]
    return distribution, listed, listed.replace(probe, lookup)


def test_a_late_link_opens(own: Customer, state: State) -> None:
    """Built from a listed one, without ever having been listed."""
    _, listed, built = late(own)
    assert [state(own.web.get(link)) for link in (listed, built)] == ["open", "open"]


def test_a_late_link_opens_once_it_was_listed(start: Start, state: State, tmp_path: Any) -> None:
    """Where the platform makes links by listing them; a restart knows which it has listed."""
    own = start(state=tmp_path / "state", facts={"late_link": False})
    distribution, listed, built = late(own)
    states = [state(own.web.get(link)) for link in (listed, built)]
    assert states == ["open", "incorrect"]
    own.stop()
    own = start(state=tmp_path / "state")
    origin = str(own.ready.origin)
    built = re.sub(r"http://[^/]+", origin, built)
    assert state(own.web.get(built)) == "incorrect"
    assert own.links(distribution)[1] == built
    assert state(own.web.get(built)) == "open"
    own.stop()
    own = start(state=tmp_path / "state")
    assert state(own.web.get(re.sub(r"http://[^/]+", own.ready.origin, built))) == "open"


def test_listing_is_no_accepted_write(own: Customer) -> None:
    """It is kept, but the journal holds what callers asked for."""
    before = own.control("GET", "journal")["last"]
    distribution, *_ = late(own)
    own.links(distribution)
    entries = own.control("GET", f"journal?after={before}")["entries"]
    operations = [entry["operation"] for entry in entries]
    expected = ["mailing_list.create", "list_contact.add", "distribution.create"]
    assert operations == [*expected, "list_contact.add"]


@pytest.mark.parametrize("told", [True, False])
def test_a_built_link_in_history(own: Customer, told: bool) -> None:  # noqa: FBT001 - both ways
    """Told of from the start, or from its first listing on; its response is counted in any case."""
    turn(own, history_links=told)
    distribution, listed, built = late(own)
    own.send(built, own.open(built))

    def found() -> list[str]:
        entries = own.elements(f"/distributions/{distribution}/history")
        return [str(entry["surveyLink"]) for entry in entries]

    assert found() == ([listed, built] if told else [listed])
    path = f"/distributions/{distribution}?surveyId={own.ready.survey_id}"
    assert own.result("GET", path)["stats"]["finished"] == 1
    own.links(distribution)
    assert found() == [listed, built]


def test_history_without_anybody_to_tell_of_is_400(own: Customer) -> None:
    """Late contacts of a distribution on an empty list, where built links are not in history."""
    turn(own, history_links=False)
    path = own.mailing_list()
    distribution = own.distribute(path)
    own.add(path)
    status, error = own.error("GET", f"/distributions/{distribution}/history")
    assert (status, error["errorCode"]) == (400, "CP_TD_GER_NP")


def test_a_repeated_add_may_give_another_lookup_id(own: Customer, state: State) -> None:
    """The former one is gone then, and its link with it; the person is the same."""
    turn(own, same_lookup=False)
    path = own.mailing_list()
    first = own.add(path, email="again@example.com", privateEmbeddedData={"a": "1"})
    distribution = own.distribute(path)
    link = own.links(distribution)[0]
    second = own.add(path, email="again@example.com")
    assert (first[0] == second[0], first[1] == second[1]) == (True, False)
    assert [one["contactLookupId"] for one in own.elements(f"{path}/contacts")] == [second[1]]
    assert state(own.web.get(link)) == "incorrect"
    assert state(own.web.get(link.replace(first[1], second[1]))) == "open"


def test_private_data_may_not_reach_the_survey(own: Customer) -> None:
    """The contact's own do."""
    turn(own, private_data=False)
    link = own.link(embeddedData={"a": "1", "b": "1"}, privateEmbeddedData={"b": "2", "c": "2"})
    values = own.answer(link)
    assert (values["a"], values["b"], values.get("c")) == ("1", "1", None)


def transaction(customer: Customer) -> str:
    """A transaction of a contact of its own: its id."""
    path = customer.mailing_list()
    body = {
        "contactId": customer.add(path)[0],
        "mailingListId": path.rsplit("/", 1)[1],
        "transactionDate": "2026-11-03 14:05:00",
        "data": {},
    }
    result = customer.result("POST", f"{customer.directory}/transactions", {"k": body})
    return str(result["createdTransactions"]["k"]["id"])


def batch_body(customer: Customer, *transactions: str) -> dict[str, object]:
    """What makes a distribution on a batch of these."""
    batches = f"{customer.directory}/transactionbatches"
    batch = customer.result("POST", batches, {"transactionIds": list(transactions)})["id"]
    return {
        "surveyId": customer.ready.survey_id,
        "linkType": "Individual",
        "description": "ours",
        "action": "CreateTransactionBatchDistribution",
        "transactionBatchId": batch,
    }


def test_some_accounts_refuse_distributions_on_batches(own: Customer) -> None:
    """The key is unknown to them; batches themselves are made."""
    turn(own, transaction_batch=False)
    status, error = own.error("POST", "/distributions", batch_body(own, transaction(own)))
    expected = {"errorMessage": "Unexpected json key provided: transactionBatchId"}
    assert (status, error) == (400, expected)


@pytest.mark.parametrize("opens", [True, False])
def test_a_late_transaction(own: Customer, state: State, opens: bool) -> None:  # noqa: FBT001 - both ways
    """It has a link like the others, or none at all, however often links are listed."""
    turn(own, late_transaction=opens)
    one, two = transaction(own), transaction(own)
    body = batch_body(own, one)
    distribution = own.result("POST", "/distributions", body)["id"]
    entries = f"{own.directory}/transactionbatches/{body['transactionBatchId']}/transactions"
    own.result("POST", entries, {"transactionIds": [two]})
    links = own.links(distribution)
    assert len(links) == 1 + opens
    built = links[0].replace(one, two)
    assert state(own.web.get(built)) == ("open" if opens else "incorrect")
    told = own.elements(f"/distributions/{distribution}/history")
    assert [entry["surveyLink"] for entry in told] == links


def test_so_many_transactions_a_call_and_no_more(own: Customer) -> None:
    """Made, put into a batch, or added to one: 413 in the usual envelope, and nothing is done."""
    turn(own, transactions_per_call=2)
    three = [transaction(own) for _ in range(3)]
    path = own.mailing_list()
    body = {
        "contactId": own.add(path)[0],
        "mailingListId": path.rsplit("/", 1)[1],
        "transactionDate": "2026-11-03 14:05:00",
    }
    transactions, batches = f"{own.directory}/transactions", f"{own.directory}/transactionbatches"
    batch = own.result("POST", batches, {"transactionIds": three[:2]})["id"]
    for where, what in (
        (transactions, {str(number): body for number in range(3)}),
        (batches, {"transactionIds": three}),
        (f"{batches}/{batch}/transactions", {"transactionIds": three}),
    ):
        status, error = own.error("POST", where, what)
        assert (status, error["errorMessage"]) == (413, "At most 2 transactions per call")
    assert len(own.result("POST", transactions, {"1": body, "2": body})["createdTransactions"]) == 2


def test_an_expiration_date_may_be_too_far_ahead(own: Customer) -> None:
    """By the account's clock."""
    turn(own, longest_expiry_days=90)
    path = own.mailing_list()

    def taken(days: int) -> bool:
        at = datetime.now(UTC) + timedelta(days=days)
        body = distribution_body(own, path) | {"expirationDate": at.isoformat()}
        return bool(own.api.post("/distributions", json=body).status_code == 200)

    assert [taken(89), taken(91)] == [True, False]
    own.control("PUT", "clock", {"advance_seconds": 30 * 86_400})
    assert [taken(91), taken(121)] == [True, False]


@pytest.mark.parametrize(("wins", "kept"), [(True, "url"), (False, "contact")])
def test_url_or_contact(own: Customer, wins: bool, kept: str) -> None:  # noqa: FBT001 - both ways
    """Of a declared field; one that the contact lacks comes from the address in any case."""
    turn(own, url_wins=wins)
    own.control("PUT", "settings", {"declared_fields": ["order", "from"]})
    link = own.link(privateEmbeddedData={"order": "contact"})
    values = own.answer(f"{link}&order=url&from=mail")
    assert (values["order"], values["from"]) == (kept, "mail")


def test_criteria_may_be_reported_and_nobody_be_merged(own: Customer) -> None:
    """Each add makes another person, whatever the directory says of itself."""
    turn(own, merges=False)
    path = own.mailing_list()
    assert own.elements("/directories")[0]["deduplicationCriteria"]["email"] is True
    one, two = (own.add(path, email="same@example.com") for _ in range(2))
    assert one[0] != two[0]


def test_search_may_lag(own: Customer) -> None:
    """By the account's clock; who is asked for by id is there at once."""
    turn(own, search_lag_seconds=60)
    contacts = f"{own.directory}/contacts"
    contact = own.result("POST", contacts, {"email": "a@example.com", "extRef": "r"})["id"]
    wanted = {"filter": {"filterType": "extRef", "comparison": "eq", "value": "r"}}
    assert own.result("POST", f"{contacts}/search", wanted)["elements"] == []
    assert own.result("GET", f"{contacts}/{contact}")["extRef"] == "r"
    own.control("PUT", "clock", {"advance_seconds": 60})
    found = own.result("POST", f"{contacts}/search", wanted)["elements"]
    assert [one["contactId"] for one in found] == [contact]


def test_lists_of_links_may_lag(own: Customer, state: State) -> None:
    """Behind the distribution and behind each contact; the links open all the same."""
    turn(own, links_lag_seconds=60)
    path = own.mailing_list()
    probe = own.add(path)[1]
    own.control("PUT", "clock", {"advance_seconds": 3600})
    distribution = own.distribute(path)
    assert own.links(distribution) == []
    own.control("PUT", "clock", {"advance_seconds": 60})
    lookup = own.add(path)[1]
    listed = own.links(distribution)
    assert len(listed) == 1
    assert state(own.web.get(listed[0].replace(probe, lookup))) == "open"
    own.control("PUT", "clock", {"advance_seconds": 60})
    assert len(own.links(distribution)) == 2


def test_who_is_listed_too_often_is_flagged(own: Customer) -> None:
    """Listing counts, once for each distribution; without a rule nobody is ever flagged."""
    turn(own, frequency_rule=1)
    path = own.mailing_list()
    own.add(path)

    def flags(distribution: str) -> list[bool]:
        links = f"/distributions/{distribution}/links?surveyId={own.ready.survey_id}"
        return [bool(one["exceededContactFrequency"]) for one in own.elements(links)]

    one, two = own.distribute(path), own.distribute(path)
    assert [flags(one), flags(one)] == [[False], [False]]
    own.add(path)
    assert flags(one) == [False, False]
    own.add(path)
    assert flags(two) == [True, True, False]
    assert flags(one) == [True, True, True]
    turn(own, frequency_rule=0)
    assert flags(two) == [False, False, False]


def test_history_can_say_anything_of_a_link_that_nobody_opened(own: Customer) -> None:
    """A client must be ready for every documented status."""
    distribution, *_ = late(own)
    for status in ("Skipped", "SoftBounce", "SessionExpired"):
        turn(own, unopened_status=status)
        told = own.elements(f"/distributions/{distribution}/history")
        assert {entry["status"] for entry in told} == {status}
