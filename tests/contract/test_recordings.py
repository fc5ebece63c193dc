"""Real answers: our client reads each of them, and the simulator gives answers of the same form.

They were given between 2019 and 2023, so some hold what has gone since (`ML_` and `MLRP_` ids).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contract.conftest import Place, Recordings, Wire, in_a_day
from tests.contract.likeness import differences
from tests.upstream.conftest import Origin

from milepost.upstream import AddedContact, ContactFields, NotFound, Refused, Upstream

DIRECTORY, LIST = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl"
SURVEY, DISTRIBUTION = "SV_yxgJYWKCmDogBXz", "EMD_SN74IhsDHkP3g6f"
NOBODY = "000000000000000"


def replay(origin: Origin, answer: object, status: int = 200) -> None:
    """Answer as was recorded."""
    origin.answers = [origin.raw(status, json.dumps(answer).encode())]


# --- our client reads them ----------------------------------------------------------------------


async def test_the_documented_add_is_read(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """The example of the one call."""
    (example,) = recorded.read("create_contact_in_mailing_list_doc.json")
    replay(origin, example)
    added = await reader.add_list_contact(DIRECTORY, LIST, ContactFields(ref="r"))
    result = example["result"]
    assert added == AddedContact(result["id"], result["contactLookupId"])


async def test_the_recorded_request_for_a_distribution_is_ours(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """Given the same parts, the same body is sent."""
    (example,) = recorded.read("create_distribution_doc.json")
    request = example["request"]
    replay(origin, example["response"])
    made = await reader.create_distribution(
        request["surveyId"],
        request["mailingListId"],
        request["description"],
        datetime.fromisoformat(request["expirationDate"]),
    )
    assert made == example["response"]["result"]["id"]
    assert origin.seen[0].json == request


async def test_the_documented_transaction_is_read(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """Its date, which names no zone, is one in UTC."""
    (example,) = recorded.read("get_transaction_doc.json")
    result = example["result"]
    replay(origin, example)
    read = await reader.transaction(DIRECTORY, result["transactionId"])
    assert read.transaction_id == result["transactionId"]
    assert (read.contact_id, read.list_id) == (result["contactId"], result["mailingListId"])
    assert read.at == datetime(2017, 12, 11, tzinfo=UTC)
    assert read.data == result["data"]


@pytest.mark.parametrize("name", ["history_2021_started.json", "history_2023_pending.json"])
async def test_recorded_histories_are_read(
    name: str, origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """Of the years with old and with today's lookup ids."""
    (answer,) = recorded.read(name)
    (element,) = answer["result"]["elements"]
    replay(origin, answer)
    (entry,) = [each async for each in reader.history(DISTRIBUTION)]
    assert entry.lookup_id == element["contactLookupId"]
    assert (entry.status, entry.response_id) == (element["status"], element["responseId"])
    assert entry.link == element["surveyLink"]


async def test_recorded_links_are_read(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """Including those of 2019, which lack the transaction and the next page."""
    (answer,) = recorded.read("list_links_2021.json")
    replay(origin, answer)
    (link,) = [each async for each in reader.distribution_links(DISTRIBUTION, SURVEY)]
    assert link.link == answer["result"]["elements"][0]["link"]
    assert link.expires_at == datetime(2021, 7, 31, 14, 58, tzinfo=UTC)
    _, _, links = recorded.read("recorded_2019.json")
    replay(origin, links["response"])
    (old,) = [each async for each in reader.distribution_links(DISTRIBUTION, SURVEY)]
    assert old.contact_id == links["response"]["result"]["elements"][0]["contactId"]


async def test_a_recorded_empty_list_is_read(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """A survey without distributions."""
    (answer,) = recorded.read("list_distributions_empty_2020.json")
    replay(origin, answer)
    assert [each async for each in reader.distributions(SURVEY)] == []


async def test_answers_by_proxy_are_read(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """A wrong data centre adds its notice, to a success and to a refusal."""
    made, missing, _ = recorded.read("recorded_2019.json")
    replay(origin, made["response"])
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    made_id = await reader.create_distribution(SURVEY, LIST, "x", moment)
    assert made_id == made["response"]["result"]["id"]
    replay(origin, missing["response"], missing["status"])
    with pytest.raises(NotFound) as caught:
        _ = [each async for each in reader.distribution_links(DISTRIBUTION, SURVEY)]
    assert caught.value.error_code == "GED_3"


async def test_recorded_cursors_are_followed_on_our_own_host(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """The recorded next pages name another host and carry that proxy's parameters."""
    pages = recorded.read("list_links_pagination_2019.json")
    origin.answers = [
        *(origin.ok({"elements": [], "nextPage": page["nextPage"]}) for page in pages),
        origin.ok({"elements": [], "nextPage": None}),
    ]
    assert [each async for each in reader.distribution_links(DISTRIBUTION, SURVEY)] == []
    path = f"/API/v3/distributions/{DISTRIBUTION}/links?surveyId={SURVEY}"
    cursors = [found for page in pages for found in skip_tokens(page["nextPage"])]
    expected = [path, *(f"{path}&skipToken={cursor}" for cursor in cursors)]
    assert [seen.target for seen in origin.seen] == expected


async def test_recorded_errors_keep_their_facts(
    origin: Origin, reader: Upstream, recorded: Recordings
) -> None:
    """Whatever half of the envelope each of them has."""
    for answer in recorded.read("errors_observed.json"):
        if "verbatim" in answer:
            origin.answers = [origin.raw(answer["status"], answer["verbatim"].encode())]
            note = json.loads(answer["verbatim"])["meta"]["error"]
        elif "meta" in answer:
            replay(origin, {"meta": answer["meta"]}, answer["status"])
            note = answer["meta"]["error"]
        else:  # a sentence without its envelope
            continue
        with pytest.raises(Refused) as caught:
            await reader.whoami()
        told = (caught.value.error_code, caught.value.upstream_message)
        assert told == (note.get("errorCode"), note["errorMessage"])
        assert note["errorMessage"] not in str(caught.value)


# --- the simulator answers like them --------------------------------------------------------------


async def test_an_add_is_answered_like_the_documented_one(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """Both ids and the envelope."""
    (example,) = recorded.read("create_contact_in_mailing_list_doc.json")
    path = (
        f"/directories/{simulated.directory}/mailinglists/{await simulated.mailing_list()}/contacts"
    )
    answer = await wire.answer("POST", path, {"email": "a@example.com"})
    # In one example the request's id is written as a placeholder.
    assert differences(example, answer, apart_from=["meta.requestId"]) == []


async def test_the_recorded_request_for_a_distribution_is_answered_alike(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """The same body, but for ids and a date that lie in this account and in the future."""
    (example,) = recorded.read("create_distribution_doc.json")
    body = example["request"] | {
        "surveyId": simulated.survey,
        "mailingListId": await simulated.mailing_list(),
        "expirationDate": in_a_day().strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert differences(example["response"], await wire.answer("POST", "/distributions", body)) == []


async def test_an_answer_by_proxy_is_given_like_the_recorded_one(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """The envelope of a wrong data centre, around a success and a refusal."""
    made, missing, _ = recorded.read("recorded_2019.json")
    await wire.switch(notice=made["response"]["meta"]["notice"])
    body = made["request"]["body"] | {
        "surveyId": simulated.survey,
        "mailingListId": await simulated.mailing_list(),
    }
    assert differences(made["response"], await wire.answer("POST", "/distributions", body)) == []
    path = f"/distributions/EMD_{NOBODY}/links?surveyId={simulated.survey}"
    answer = await wire.answer("GET", path)
    assert differences(missing["response"], answer) == []
    assert answer["meta"]["error"] == missing["response"]["meta"]["error"]
    assert answer["meta"]["notice"] == missing["response"]["meta"]["notice"]


async def test_a_transaction_is_given_like_the_documented_one(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """The same transaction, made and read."""
    (example,) = recorded.read("get_transaction_doc.json")
    list_id = await simulated.mailing_list()
    added = await simulated.add(list_id, "ada")
    transactions = f"/directories/{simulated.directory}/transactions"
    wanted = {
        "contactId": added.contact_id,
        "mailingListId": list_id,
        "transactionDate": example["result"]["transactionDate"],
        "data": example["result"]["data"],
    }
    made = await wire.result("POST", transactions, {"mine": wanted})
    made_id = made["createdTransactions"]["mine"]["id"]
    answer = await wire.answer("GET", f"{transactions}/{made_id}")
    assert differences(example, answer) == []
    assert answer["result"]["data"] == example["result"]["data"]
    assert answer["result"]["transactionDate"] == example["result"]["transactionDate"]


async def test_links_are_listed_like_the_recorded_ones(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """Of a contact who has an address and no name."""
    (recording,) = recorded.read("list_links_2021.json")
    list_id = await simulated.mailing_list()
    path = f"/directories/{simulated.directory}/mailinglists/{list_id}/contacts"
    await wire.result("POST", path, {"email": "a@example.com"})
    distribution = await simulated.distribution(list_id)
    links = f"/distributions/{distribution}/links?surveyId={simulated.survey}"
    assert differences(recording, await wire.answer("GET", links)) == []


async def test_pages_are_joined_like_the_recorded_ones(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """A hundred links to a page, and a next one that names its predecessor's last contact."""
    page, *_ = recorded.read("list_links_pagination_2019.json")
    list_id = await simulated.mailing_list()
    path = f"/directories/{simulated.directory}/mailinglists/{list_id}/contacts"
    for number in range(page["n_elements"] + 1):
        await wire.result("POST", path, {"email": f"{number}@example.com"})
    distribution = await simulated.distribution(list_id)
    links = f"/distributions/{distribution}/links?surveyId={simulated.survey}"
    result = await wire.result("GET", links)
    assert len(result["elements"]) == page["n_elements"]
    assert result["elements"][0].keys() - set(page["element_keys"]) == {"transactionId"}
    (token,) = skip_tokens(result["nextPage"])
    last = await wire.result("GET", f"{links}&skipToken={token}")
    assert len(last["elements"]) == 1
    assert not last["nextPage"]


async def test_a_pending_link_stands_in_history_like_the_recorded_one(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """With the very moments that are null before anybody opens it, and a link of that shape."""
    (recording,) = recorded.read("history_2023_pending.json")
    list_id = await simulated.mailing_list()
    await simulated.add(list_id, "ada")
    distribution = await simulated.distribution(list_id)
    answer = await wire.answer("GET", f"/distributions/{distribution}/history")
    assert differences(recording, answer) == []
    assert link_of(answer) == link_of(recording)


async def test_a_started_link_stands_in_history_like_the_recorded_one(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """But for the opening, which is that of an e-mail: nobody is sent one here."""
    (recording,) = recorded.read("history_2021_started.json")
    list_id = await simulated.mailing_list()
    await simulated.add(list_id, "ada")
    distribution = await simulated.distribution(list_id)
    history = f"/distributions/{distribution}/history"
    (entry,) = (await wire.result("GET", history))["elements"]
    assert (await wire.web.get(entry["surveyLink"])).status_code == 200
    answer = await wire.answer("GET", history)
    assert differences(recording, answer, apart_from=["result.elements[].openedAt"]) == []
    assert answer["result"]["elements"][0]["status"] == "SurveyStarted"


async def test_an_empty_list_is_answered_like_the_recorded_one(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """A survey without distributions."""
    (recording,) = recorded.read("list_distributions_empty_2020.json")
    answer = await wire.answer("GET", f"/distributions?surveyId={simulated.survey}")
    assert differences(recording, answer) == []
    assert answer["result"] == recording["result"]


async def test_errors_are_answered_like_the_recorded_ones(
    simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """The words, the code and the status, whatever the error; and the form around them."""
    directory = f"/directories/{simulated.directory}"
    lost = f"{directory}/mailinglists/CG_{NOBODY}"
    distribution = {
        "surveyId": simulated.survey,
        "linkType": "Individual",
        "description": "d",
        "action": "CreateDistribution",
        "mailingListId": f"CG_{NOBODY}",
    }
    list_id = await simulated.mailing_list()
    added = await simulated.add(list_id, "ada")
    member = f"{directory}/mailinglists/{list_id}/contacts/{added.contact_id}"
    calls: dict[str | None, tuple[str, str, object]] = {
        "GED_3": ("GET", f"/distributions/EMD_{NOBODY}/links?surveyId={simulated.survey}", None),
        "PACC_6": ("GET", lost, None),
        "GP_0": ("POST", "/distributions", distribution),
        "ESSG_2": ("GET", f"/eventsubscriptions/SUB_{NOBODY}", None),
        "GET_CONTACT_FROM_LIST_NOT_FOUND": ("GET", f"{lost}/contacts/CID_{NOBODY}", None),
        "API call does not exist": ("GET", "/doesnotexist", None),
        "Unexpected json key provided": ("PUT", member, {"contactLookupId": added.lookup_id}),
    }
    compared = set()
    for error in recorded.read("errors_observed.json"):
        answer = json.loads(error["verbatim"]) if "verbatim" in error else error
        if "meta" not in answer:
            if "errorMessage" not in answer:
                continue
            answer = {"meta": {"error": {"errorMessage": answer["errorMessage"]}}}
        note = answer["meta"]["error"]
        name = note.get("errorCode") or note["errorMessage"].partition(":")[0]
        if name not in calls:
            # What an account may not do: nothing at the simulator belongs to anybody else.
            assert name == "TAG_0.4"
            continue
        answered = await wire.answer(*calls[name])
        assert plain(answered["meta"]["error"]) == plain(note)
        if "httpStatus" in answer["meta"]:
            # The one that has a notice came by a proxy, which has a test of its own.
            expected = {"meta": answer["meta"]}
            assert differences(expected, answered, apart_from=["meta.notice"]) == []
            assert answered["meta"]["httpStatus"] == answer["meta"]["httpStatus"]
        compared.add(name)
    assert compared == calls.keys()


@pytest.mark.parametrize(
    "link_format", ["2019", "2020", "2020-channel-first", "2023", "transaction"]
)
async def test_links_are_written_as_they_were_seen(
    link_format: str, simulated: Place, wire: Wire, recorded: Recordings
) -> None:
    """Each year's shape, whose old ids are today's, and that of a transaction."""
    seen = {shape(link) for link in recorded.links()}
    if link_format == "transaction":
        _, made = await simulated.transaction("ada")
        batch = await simulated.batch(made)
        distribution = await simulated.upstream.create_batch_distribution(
            simulated.survey, batch, simulated.name("batch"), in_a_day()
        )
    else:
        await wire.switch(facts={"link_format": link_format})
        list_id = await simulated.mailing_list()
        await simulated.add(list_id, "ada")
        distribution = await simulated.distribution(list_id)
    links = simulated.upstream.distribution_links(distribution, simulated.survey)
    (listed,) = [each.link async for each in links]
    assert shape(listed) in seen


def skip_tokens(next_page: str) -> list[str]:
    """The cursor in the address of a next page."""
    return re.findall(r"[?&]skipToken=([^&]+)", next_page)


def plain(note: dict[str, Any]) -> dict[str, str]:
    """An error without the ids in it."""
    return {key: re.sub(r"([A-Z]+_)[0-9A-Za-z]{15}", r"\1…", note[key]) for key in note}


def shape(link: str) -> str:
    """A link without its ids and its host, and with today's name for the id of the contact."""
    link = re.sub(r"https?://[^/]+", "https://host", link.replace("_MLRP_", "_CGC_"))
    return re.sub(r"[0-9A-Za-z]{15}(?=[_?&]|$)", "…", link)


def link_of(answer: dict[str, Any]) -> str:
    """The shape of a history's first link."""
    return shape(answer["result"]["elements"][0]["surveyLink"])
