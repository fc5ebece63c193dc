"""Clients that were written elsewhere, for the platform itself, do their usual work here.

All that is changed is the base URL, the way their users change it. They are `qualtrics-helper`
(MIT), which speaks most of the API, and `requests-oauthlib`, a client of OAuth in general. The
simulator has nothing for them that it has not for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from oauthlib.oauth2 import BackendApplicationClient
from qualtrics_helper import Qualtrics
from requests_oauthlib import OAuth2Session

Customer = Any

EXPIRES = (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def helper(own: Customer) -> Iterator[Qualtrics]:
    """The client, at the simulator: its one attribute that says where the API is."""
    with Qualtrics(api_token="simulator") as client:
        client.base_url = own.ready.url
        yield client


@pytest.fixture
def list_id(own: Customer, helper: Qualtrics) -> str:
    """A mailing list that the client made."""
    made = helper.mailingLists.create_mailing_list(own.ready.directory_id, "theirs")
    return str(made["id"])


def test_it_finds_its_way_around_the_account(own: Customer, helper: Qualtrics) -> None:
    """Who it is, its directory and its survey."""
    assert helper.users.who_am_i()["userId"].startswith("UR_")
    (directory,) = helper.directories.list_directories()
    (survey,) = helper.surveys.list_surveys()
    assert directory["directoryId"] == own.ready.directory_id
    assert survey["id"] == own.ready.survey_id
    assert helper.surveys.search_for_survey_id(survey["name"]) == own.ready.survey_id
    assert helper.surveys.get_survey(own.ready.survey_id)["isActive"] is True


def test_it_keeps_mailing_lists(own: Customer, helper: Qualtrics, list_id: str) -> None:
    """Made, renamed, found by name, deleted."""
    directory, lists = own.ready.directory_id, helper.mailingLists
    lists.update_mailing_list(directory, list_id, "renamed")
    assert lists.get_mailing_list(directory, list_id)["name"] == "renamed"
    assert lists.search_mailing_list(directory, "renamed")["mailingListId"] == list_id
    lists.delete_mailing_list(directory, list_id)
    assert lists.list_mailing_lists(directory) == []


def test_it_follows_pages_to_their_end(own: Customer, helper: Qualtrics) -> None:
    """It asks for the next page at whatever address it is told."""
    for _ in range(105):
        own.mailing_list()
    found = helper.mailingLists.list_mailing_lists(own.ready.directory_id)
    assert len({one["mailingListId"] for one in found}) == 105


def test_it_adds_finds_and_reads_contacts(own: Customer, helper: Qualtrics, list_id: str) -> None:
    """In a list and in the directory, by one condition and by several."""
    directory, contacts = own.ready.directory_id, helper.contacts
    ada = {"firstName": "Ada", "lastName": "Lovelace", "email": "ada@example.com", "extRef": "1"}
    added = contacts.create_contact_mailing_list(directory, list_id, ada)
    contacts.create_contact_mailing_list(directory, list_id, ada | {"email": "b@example.com"})
    read = contacts.get_contact_of_mailing_list(directory, list_id, added["id"])
    assert read["contactLookupId"] == added["contactLookupId"]
    known = contacts.get_contact_of_directory(directory, added["id"])
    assert known["mailingListMembership"][list_id]["contactLookupId"] == added["contactLookupId"]
    members = contacts.list_contacts_of_mailing_lists(directory, list_id)
    assert [one["email"] for one in members] == ["ada@example.com", "b@example.com"]

    last_name = {"filterType": "lastName", "comparison": "eq", "value": "lovelace"}
    email = {"filterType": "email", "comparison": "eq", "value": "ada@example.com"}
    both = {"conjunction": "and", "filters": [last_name, email]}
    hits = contacts.search_contacts_of_directory(directory, {"filter": last_name})
    assert {one["email"] for one in hits} == {"ada@example.com", "b@example.com"}
    hits = contacts.search_contacts_of_directory(directory, {"filter": both})
    assert [one["email"] for one in hits] == ["ada@example.com"]


def test_it_pages_a_search_by_its_token(own: Customer, helper: Qualtrics) -> None:
    """A search has no next page, but a token beside its elements."""
    path = own.mailing_list()
    for _ in range(205):
        own.add(path, lastName="Lovelace")
    found = helper.contacts.search_contacts_of_directory(
        own.ready.directory_id,
        {"filter": {"filterType": "lastName", "comparison": "eq", "value": "Lovelace"}},
    )
    assert len(found) == 205


def test_it_lists_who_opted_out(own: Customer, helper: Qualtrics, list_id: str) -> None:
    """Of the directory, and of a list."""
    directory, contacts = own.ready.directory_id, helper.contacts
    added = contacts.create_contact_mailing_list(directory, list_id, {"email": "a@example.com"})
    assert contacts.list_opted_out_contacts_of_directory(directory) == []
    own.result("PUT", f"{own.directory}/contacts/{added['id']}", {"unsubscribed": True})
    (gone,) = contacts.list_opted_out_contacts_of_directory(directory)
    assert gone["email"] == "a@example.com"
    assert contacts.list_opted_out_contacts_of_mailing_lists(directory, list_id) == []


@pytest.fixture
def transact(own: Customer, helper: Qualtrics, list_id: str) -> Callable[[str], tuple[str, str]]:
    """Makes a contact and a transaction of theirs: the ids of both."""

    def make(email: str) -> tuple[str, str]:
        directory = own.ready.directory_id
        added = helper.contacts.create_contact_mailing_list(directory, list_id, {"email": email})
        wanted = helper.transactions.create_create_contact_transaction_object(
            added["id"], list_id, "2026-11-24 08:30:00", {"amount": "12"}
        )
        made = helper.transactions.create_contact_transaction(directory, {"one": wanted})
        assert made["result"]["unprocessedTransactions"] == {}
        return added["id"], made["result"]["createdTransactions"]["one"]["id"]

    return make


def test_it_makes_and_reads_transactions(
    own: Customer, helper: Qualtrics, transact: Callable[[str], tuple[str, str]]
) -> None:
    """One by its id, all by the contact."""
    contact_id, made = transact("ada@example.com")
    read = helper.transactions.get_contact_transaction(own.ready.directory_id, made)
    assert (read["contactId"], read["data"]) == (contact_id, {"amount": "12"})
    assert read["transactionDate"] == "2026-11-24 08:30:00"
    (listed,) = helper.transactions.list_contact_transactions(own.ready.directory_id, contact_id)
    assert listed["transactionId"] == made


def test_it_keeps_transaction_batches(
    own: Customer, helper: Qualtrics, transact: Callable[[str], tuple[str, str]]
) -> None:
    """Filled, added to, taken from, deleted."""
    directory, transactions = own.ready.directory_id, helper.transactions
    first, second = (transact(f"{who}@example.com")[1] for who in ("ada", "grace"))
    batch = transactions.create_transaction_batch(directory, [first])["id"]
    transactions.add_transactions_batch(directory, batch, [second])

    def held() -> set[str]:
        found = transactions.list_transactions_in_a_batch(directory, batch)
        return {one["transactionId"] for one in found}

    assert held() == {first, second}
    transactions.remove_transaction_batch(directory, batch, first)
    assert held() == {second}
    assert transactions.get_transaction_batch(directory, batch) is not None
    assert len(transactions.list_transaction_batches(directory)) == 1
    transactions.delete_transaction_batch(directory, batch)
    assert transactions.list_transaction_batches(directory) == []


def test_it_imports_contacts(own: Customer, helper: Qualtrics, list_id: str) -> None:
    """In the background, until it is told that all is done."""
    directory, transactions = own.ready.directory_id, helper.transactions
    people = [{"email": f"p{number}@example.com"} for number in range(5)]
    started = transactions.create_transaction_contacts_import(directory, list_id, people)
    ends = time.monotonic() + 10
    while True:
        progress = transactions.get_creation_transaction_contacts_import_progress(
            directory, list_id, started["id"]
        )
        if progress["percentComplete"] == 100 or time.monotonic() > ends:
            break
    assert progress["contacts"]["count"]["added"] == 5
    members = helper.contacts.list_contacts_of_mailing_lists(directory, list_id)
    assert {one["email"] for one in members} == {one["email"] for one in people}


def test_it_makes_links_that_open(own: Customer, helper: Qualtrics, list_id: str) -> None:
    """A distribution, its history with the link, its counts once somebody has answered."""
    survey, directory = own.ready.survey_id, own.ready.directory_id
    helper.contacts.create_contact_mailing_list(directory, list_id, {"email": "ada@example.com"})
    made = helper.distributions.create_distribution(
        directory,
        "CreateDistribution",
        survey,
        "Individual",
        EXPIRES,
        mailingListId=list_id,
        description="theirs",
    )["id"]
    (pending,) = helper.distributions.list_distribution_history(made)
    assert pending["status"] == "Pending"
    own.answer(pending["surveyLink"])
    (finished,) = helper.distributions.list_distribution_history(made)
    assert finished["status"] == "SurveyFinished"
    assert helper.distributions.get_distribution(made, survey)["stats"]["finished"] == 1
    (listed,) = helper.distributions.list_distributions(survey, list_id)
    assert listed["id"] == made
    helper.distributions.delete_distribution(made)
    assert helper.distributions.list_distributions(survey) == []


def test_it_makes_links_for_a_batch(
    own: Customer, helper: Qualtrics, transact: Callable[[str], tuple[str, str]]
) -> None:
    """The survey that opens holds what the transaction holds."""
    directory, survey = own.ready.directory_id, own.ready.survey_id
    own.control("PUT", "settings", {"declared_fields": ["amount"]})
    _, transaction = transact("ada@example.com")
    batch = helper.transactions.create_transaction_batch(directory, [transaction])["id"]
    made = helper.distributions.create_distribution(
        directory,
        "CreateTransactionBatchDistribution",
        survey,
        "Individual",
        EXPIRES,
        transactionBatchId=batch,
        description="theirs",
    )["id"]
    (link,) = own.links(made)
    assert own.answer(link)["amount"] == "12"


def test_what_is_not_there_is_told_as_an_error(
    own: Customer, helper: Qualtrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The client reports it by the status, in its own way."""
    lost = helper.mailingLists.get_mailing_list(own.ready.directory_id, "CG_000000000000000")
    assert lost is None
    assert "404" in caplog.text


def test_a_client_of_oauth_gets_a_token_and_uses_it(
    own: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By client credentials; its token opens what its scopes name."""
    # It speaks https alone unless it is told that this is a test.
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    client = BackendApplicationClient("simulator", scope=["read:directories"])
    with OAuth2Session(client=client) as session:
        token = session.fetch_token(
            f"{own.ready.origin}/oauth2/token", client_id="simulator", client_secret="simulator"
        )
        assert token["token_type"].lower() == "bearer"
        answer = session.get(f"{own.ready.url}/directories")
        assert answer.status_code == 200
        (directory,) = answer.json()["result"]["elements"]
        assert directory["directoryId"] == own.ready.directory_id
        lists = f"{own.ready.url}{own.lists}"
        assert session.post(lists, json={"name": "theirs"}).status_code == 403
