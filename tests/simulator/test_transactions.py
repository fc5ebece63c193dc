"""Transactions and their batches: many in a call, each by itself, and links of their own."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

# Annotated `Any`: conftest's classes cannot be imported under importlib mode.
Customer = Any
Start = Any

LINK = re.compile(
    r"(?P<origin>http://127\.0\.0\.1:\d+)/jfe/form/(?P<survey>SV_\w{15})"
    r"\?Q_CHL=gl&Q_DL=(?P<distribution>\w{15})_(?P<again>\w{15})_(?P<transaction>CTR_\w{15})&_g_=g"
)


class People:
    """A list with contacts, and their transactions."""

    def __init__(self, customer: Customer) -> None:
        self.customer = customer
        self.path = customer.mailing_list()
        self.transactions = f"{customer.directory}/transactions"
        self.batches = f"{customer.directory}/transactionbatches"

    def body(self, contact: str, **more: object) -> dict[str, object]:
        """What is sent of one transaction."""
        return {
            "contactId": contact,
            "mailingListId": self.path.rsplit("/", 1)[1],
            "transactionDate": "2026-11-03 14:05:00",
            "data": {"flight": "4711"},
        } | more

    def transaction(self, contact: str | None = None, **more: object) -> str:
        """A transaction made just now: its id."""
        contact = contact or self.customer.add(self.path)[0]
        result = self.customer.result("POST", self.transactions, {"k": self.body(contact, **more)})
        return str(result["createdTransactions"]["k"]["id"])

    def batch(self, *transactions: str) -> str:
        """A batch made just now: its path."""
        body = {"transactionIds": list(transactions)} if transactions else {}
        return f"{self.batches}/{self.customer.result('POST', self.batches, body)['id']}"

    def distribute(self, batch: str, **more: object) -> str:
        """A distribution on a batch: its id."""
        body = {
            "surveyId": self.customer.ready.survey_id,
            "linkType": "Individual",
            "description": "ours",
            "action": "CreateTransactionBatchDistribution",
            "transactionBatchId": batch.rsplit("/", 1)[1],
        }
        return str(self.customer.result("POST", "/distributions", body | more)["id"])

    def inside(self, batch: str) -> list[str]:
        """The transactions of a batch."""
        entries = self.customer.elements(f"{batch}/transactions")
        return [str(one["transactionId"]) for one in entries]


@pytest.fixture
def people(shared: Customer) -> People:
    """A list of its own on the simulator of everybody."""
    return People(shared)


def test_each_transaction_of_a_call_is_made_or_refused_by_itself(people: People) -> None:
    """A call that succeeds tells, under the caller's keys, what was made and what was not."""
    customer = people.customer
    contact = customer.add(people.path)[0]
    stranger = customer.add(customer.mailing_list())[0]
    wanted = {
        "good": people.body(contact),
        "nobody": people.body("CID_000000000000000"),
        "not in the list": people.body(stranger),
        "date": people.body(contact, transactionDate="2026-11-03T14:05:00Z"),
        "day": people.body(contact, transactionDate="2026-02-30 14:05:00"),
        "number": people.body(contact, data={"n": 10**1100}),
        "too": people.body(contact, data=None),
    }
    result = customer.result("POST", people.transactions, wanted)
    assert result["createdTransactions"].keys() == {"good", "too"}
    refused = result["unprocessedTransactions"]
    assert refused.keys() == wanted.keys() - {"good", "too"}
    assert {frozenset(one) for one in refused.values()} == {frozenset(["error", "errorMessage"])}
    for made in result["createdTransactions"].values():
        assert re.fullmatch(r"CTR_[0-9A-Za-z]{15}", made["id"])
    entry = customer.control("GET", "journal")["entries"][-1]
    assert entry["effect"] == "some_created"
    assert entry["ids"]["transaction.good"] == result["createdTransactions"]["good"]["id"]
    assert entry["minted"] == [made["id"] for made in result["createdTransactions"].values()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"when": "now"}, "Unexpected json key provided: when"),
        ({"data": {"a": True}}, "Invalid request body"),
        ({"data": {"": "a"}}, "Invalid request body"),
        ({"contactId": None}, "Invalid request body"),
    ],
)
def test_a_call_of_the_wrong_shape_makes_nothing(
    people: People, change: dict[str, object], words: str
) -> None:
    """Unknown keys, missing ones and wrong types are refused with 400, the good ones with them."""
    contact = people.customer.add(people.path)[0]
    body = {"good": people.body(contact), "bad": people.body(contact) | change}
    status, error = people.customer.error("POST", people.transactions, body)
    assert status == 400
    assert words in error["errorMessage"]
    of_contact = f"{people.customer.directory}/contacts/{contact}/transactions"
    assert people.customer.elements(of_contact) == []
    assert people.customer.error("POST", people.transactions, {})[0] == 400


def test_a_transaction_is_read_changed_and_deleted(people: People) -> None:
    """Appended data join the former ones, sent ones replace them; numbers are kept as text."""
    customer = people.customer
    contact = customer.add(people.path)[0]
    made = people.transaction(contact, data={"flight": 4711, "gate": "A1", "empty": ""})
    path = f"{people.transactions}/{made}"
    expected = {
        "contactId": contact,
        "mailingListId": people.path.rsplit("/", 1)[1],
        "transactionDate": "2026-11-03 14:05:00",
        "data": {"flight": "4711", "gate": "A1"},
        "transactionId": made,
    }
    assert customer.result("GET", path) == expected
    customer.result("POST", path, {"data": {"gate": "B2", "seat": "4C"}})
    appended = {"flight": "4711", "gate": "B2", "seat": "4C"}
    assert customer.result("GET", path)["data"] == appended
    customer.result("PUT", path, {"transactionDate": "2026-11-04 00:00:00"})
    assert customer.result("GET", path)["data"] == appended
    customer.result("PUT", path, {"data": {"only": "this"}})
    changed = expected | {"transactionDate": "2026-11-04 00:00:00", "data": {"only": "this"}}
    assert customer.result("GET", path) == changed
    for method, body in (("PUT", {"transactionDate": "soon"}), ("PUT", {"x": 1}), ("POST", {})):
        assert customer.error(method, path, body)[0] == 400
    assert customer.result("GET", path) == changed
    customer.result("DELETE", path)
    for method in ("GET", "DELETE"):
        assert customer.error(method, path)[0] == 404


def test_a_contacts_transactions_come_by_the_page(people: People) -> None:
    """In the order in which they were made; another contact's are not among them."""
    customer = people.customer
    contact = customer.add(people.path)[0]
    people.transaction()
    made = [people.transaction(contact) for _ in range(3)]
    path = f"{customer.directory}/contacts/{contact}/transactions?pageSize=2"
    first = customer.result("GET", path)
    token = httpx.URL(first["nextPage"]).params["skipToken"]
    rest = customer.elements(f"{path}&skipToken={token}")
    assert [one["transactionId"] for one in first["elements"] + rest] == made
    customer.result("DELETE", f"{people.transactions}/{made[0]}")
    left = customer.elements(f"{customer.directory}/contacts/{contact}/transactions")
    assert [one["transactionId"] for one in left] == made[1:]


def test_a_deleted_contact_takes_its_transactions_along(people: People) -> None:
    """Out of their batches too."""
    customer = people.customer
    contact = customer.add(people.path)[0]
    made, stays = people.transaction(contact), people.transaction()
    batch = people.batch(made, stays)
    customer.result("DELETE", f"{customer.directory}/contacts/{contact}")
    assert customer.error("GET", f"{people.transactions}/{made}")[0] == 404
    assert people.inside(batch) == [stays]


def test_batches_are_made_filled_emptied_and_deleted(own: Customer) -> None:
    """Adding is for all or none, and twice is once; a transaction outlives its batch."""
    people = People(own)
    one, two, three = (people.transaction() for _ in range(3))
    batch = people.batch(one)
    own.result("POST", f"{batch}/transactions", {"transactionIds": [two, one, three]})
    assert people.inside(batch) == [one, two, three]
    unknown = {"transactionIds": [two, "CTR_000000000000000"]}
    empty = people.batch()
    assert own.error("POST", f"{empty}/transactions", unknown)[0] == 400
    assert own.error("POST", people.batches, unknown)[0] == 400
    assert people.inside(empty) == []
    own.result("DELETE", f"{batch}/transactions/{two}")
    assert own.error("DELETE", f"{batch}/transactions/{two}")[0] == 404
    assert people.inside(batch) == [one, three]
    assert [found["batchId"] for found in own.elements(people.batches)] == [
        batch.rsplit("/", 1)[1],
        empty.rsplit("/", 1)[1],
    ]
    assert own.result("GET", batch).keys() == {"batchId", "creationDate"}
    own.result("DELETE", batch)
    for path in (batch, f"{batch}/transactions"):
        assert own.error("GET", path)[0] == 404
    assert own.result("GET", f"{people.transactions}/{one}")["transactionId"] == one
    for outside in (one, two):
        own.result("DELETE", f"{people.transactions}/{outside}")


def test_a_batch_can_be_made_with_no_body_and_with_a_date(people: People) -> None:
    """A client was seen to send `creationDate`; one that is none is refused."""
    customer = people.customer
    made = customer.api.post(people.batches).json()["result"]["id"]
    assert re.fullmatch(r"BT_[0-9A-Za-z]{15}", made)
    dated = customer.result("POST", people.batches, {"creationDate": "2026-08-24T14:15:22Z"})["id"]
    found = customer.result("GET", f"{people.batches}/{dated}")
    assert found == {"batchId": dated, "creationDate": "2026-08-24T14:15:22Z"}
    assert customer.error("POST", people.batches, {"creationDate": "yesterday"})[0] == 400


def test_a_batch_has_a_link_for_each_transaction(people: People) -> None:
    """Of the shape that was seen; one that is added later has its link at once."""
    customer = people.customer
    contact = customer.add(people.path, firstName="Ada")[0]
    one = people.transaction(contact)
    batch = people.batch(one)
    distribution = people.distribute(batch)
    two = people.transaction(contact)
    customer.result("POST", f"{batch}/transactions", {"transactionIds": [two]})
    path = f"/distributions/{distribution}/links?surveyId={customer.ready.survey_id}"
    shown = customer.elements(path)
    assert [(found["contactId"], found["transactionId"]) for found in shown] == [
        (contact, one),
        (contact, two),
    ]
    parts = LINK.fullmatch(shown[1]["link"])
    assert parts is not None
    assert parts.groupdict() == {
        "origin": customer.ready.origin,
        "survey": customer.ready.survey_id,
        "distribution": distribution.removeprefix("EMD_"),
        "again": customer.ready.survey_id.removeprefix("SV_"),
        "transaction": two,
    }


def test_a_persons_transactions_are_answered_one_by_one(own: Customer) -> None:
    """Each link is its own, and its response holds the data of that transaction at the start."""
    people = People(own)
    contact = own.add(people.path, extRef="r1", embeddedData={"tier": "gold", "flight": "?"})[0]
    flights = [people.transaction(contact, data={"flight": number}) for number in ("1", "2")]
    distribution = people.distribute(people.batch(*flights))
    first, second = own.links(distribution)
    session = own.open(second)
    own.result("PUT", f"{people.transactions}/{flights[1]}", {"data": {"flight": "3"}})
    own.send(second, session)
    values = own.answer(first)
    assert (values["flight"], values["tier"]) == ("1", "gold")
    assert values["externalDataReference"] == "r1"
    told = own.elements(f"/distributions/{distribution}/history")
    assert [(one["contactLookupId"], one["status"]) for one in told] == [
        (flight, "SurveyFinished") for flight in flights
    ]
    path = f"/surveys/{own.ready.survey_id}/responses/{told[1]['responseId']}"
    assert own.result("GET", path)["values"]["flight"] == "2"
    found = own.result("GET", f"/distributions/{distribution}?surveyId={own.ready.survey_id}")
    assert (found["stats"]["started"], found["stats"]["finished"]) == (2, 2)
    assert found["recipients"]["mailingListId"] is None
    assert found["recipients"]["transactionBatchId"].startswith("BT_")


def test_links_of_transactions_break_with_what_they_name(people: People) -> None:
    """A deleted transaction, one taken out of the batch, a deleted batch or distribution."""
    customer = people.customer
    statuses = []
    for what in ("transaction", "entry", "batch", "distribution"):
        made = people.transaction()
        batch = people.batch(made)
        distribution = people.distribute(batch)
        link = customer.links(distribution)[0]
        assert customer.web.get(link).status_code == 200
        gone = {
            "transaction": f"{people.transactions}/{made}",
            "entry": f"{batch}/transactions/{made}",
            "batch": batch,
            "distribution": f"/distributions/{distribution}",
        }
        customer.result("DELETE", gone[what])
        statuses.append(customer.web.get(link).status_code)
    assert statuses == [404] * 4


def test_a_lookup_id_opens_no_link_of_a_batch_nor_a_transaction_one_of_a_list(
    people: People,
) -> None:
    """What a distribution does not stand on is not its recipient."""
    customer = people.customer
    contact, lookup = customer.add(people.path)
    made = people.transaction(contact)
    of_batch = customer.links(people.distribute(people.batch(made)))[0]
    of_list = customer.links(customer.distribute(people.path))[0]
    assert customer.web.get(of_batch.replace(made, lookup)).status_code == 404
    assert customer.web.get(of_list.replace(lookup, made)).status_code == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transactionBatchId": "BT_000000000000000"}, "Transaction batch not found"),
        ({"transactionBatchId": None}, "Invalid request body"),
        ({"contactId": "CGC_000000000000000"}, "Unexpected json key provided: contactId"),
        ({"action": "CreateDistribution"}, "Unexpected json key provided: transactionBatchId"),
        ({"action": "Distribute"}, "Invalid action parameter"),
    ],
)
def test_a_distribution_on_a_batch_is_strict(
    people: People, change: dict[str, object], words: str
) -> None:
    """Refused with 400."""
    body = {
        "surveyId": people.customer.ready.survey_id,
        "linkType": "Individual",
        "description": "ours",
        "action": "CreateTransactionBatchDistribution",
        "transactionBatchId": people.batch().rsplit("/", 1)[1],
    }
    status, error = people.customer.error("POST", "/distributions", body | change)
    assert status == 400
    assert words in error["errorMessage"]


def test_a_distribution_on_a_batch_as_a_client_was_seen_to_ask_for_it(people: People) -> None:
    """With the action in its own case, and a mailing list that is of no consequence."""
    batch = people.batch(people.transaction())
    distribution = people.distribute(
        batch,
        action="CreateTransactionBatchdistribution",
        mailingListId=people.path.rsplit("/", 1)[1],
    )
    assert "_CTR_" in people.customer.links(distribution)[0]


def test_a_restart_keeps_transactions_batches_and_their_links(start: Start, tmp_path: Any) -> None:
    """With the same ids; a call that was refused in part is done again in part."""
    own = start(state=tmp_path / "state")
    people = People(own)
    contact = own.add(people.path)[0]
    wanted = {"a": people.body(contact), "b": people.body("CID_0"), "c": people.body(contact)}
    made = own.result("POST", people.transactions, wanted)["createdTransactions"]
    one, two = made["a"]["id"], made["c"]["id"]
    own.result("POST", f"{people.transactions}/{one}", {"data": {"seat": "4C"}})
    batch = people.batch(one, two, people.transaction(contact))
    own.result("DELETE", f"{batch}/transactions/{two}")
    distribution = people.distribute(batch)
    begun = own.links(distribution)[0]
    session = own.open(begun)
    held = own.elements(f"{batch}/transactions")
    own.stop()
    again = start(state=tmp_path / "state")
    assert again.elements(f"{batch}/transactions") == held
    link = again.links(distribution)[0]
    assert link.removeprefix(again.ready.origin) == begun.removeprefix(own.ready.origin)
    assert again.open(link) == session
    assert again.answer(link)["seat"] == "4C"
    assert again.result("GET", f"{people.transactions}/{two}")["contactId"] == contact
