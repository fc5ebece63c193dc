"""What each verb sends, and what it makes of answers in the platform's shapes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from milepost.upstream import (
    Account,
    AddedContact,
    ContactFields,
    HistoryEntry,
    ListContact,
    Refused,
    UnknownOutcome,
    Unreadable,
    Upstream,
)

if TYPE_CHECKING:
    from conftest import Origin

DIRECTORY, LIST, CONTACT = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl", "CID_9Jkl8ZA9qOnOc46"
LOOKUP, SURVEY = "CGC_84eTRcYZ0Oau98P", "SV_yxgJYWKCmDogBXz"
DISTRIBUTION = "EMD_SN74IhsDHkP3g6f"
LISTS = f"/API/v3/directories/{DIRECTORY}/mailinglists"
CONTACTS = f"{LISTS}/{LIST}/contacts"
LINK = f"https://b.example.com/jfe/form/{SURVEY}?Q_CHL=gl&Q_DL={DISTRIBUTION}_x"


# --- what is sent -------------------------------------------------------------------------------


async def test_every_request_carries_the_token_and_asks_for_plain_json(
    origin: Origin, upstream: Upstream
) -> None:
    """No other header than these leaves."""
    origin.answers = [origin.ok({"brandId": "b", "userId": "UR_1", "datacenter": "fra1"})]
    assert await upstream.whoami() == Account("UR_1")
    assert origin.seen[0].target == "/API/v3/whoami"
    assert origin.seen[0].headers == {
        "host": f"127.0.0.1:{origin.port}",
        "x-api-token": "s3cret-token",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "milepost",
    }


async def test_the_one_call_sends_what_it_is_given_and_nothing_else(
    origin: Origin, upstream: Upstream
) -> None:
    """Names are the platform's; what is None is absent, and subscription is never mentioned."""
    origin.answers = [origin.ok({"id": CONTACT, "contactLookupId": LOOKUP, "later": 1})]
    contact = ContactFields(
        first_name="Zoë",
        last_name="L",
        email="zoe@example.com",
        phone="+41 1",
        ref="r-1",
        language="DE",
        embedded_data={"tier": "gold"},
        private_embedded_data={"venue": "Halle 7"},
    )
    assert await upstream.add_list_contact(DIRECTORY, LIST, contact) == AddedContact(
        CONTACT, LOOKUP
    )
    await upstream.add_list_contact(DIRECTORY, LIST, ContactFields(ref="r-2"))
    first, second = origin.seen
    assert (first.method, first.target) == ("POST", CONTACTS)
    assert first.headers["content-type"] == "application/json"
    assert first.json == {
        "firstName": "Zoë",
        "lastName": "L",
        "email": "zoe@example.com",
        "phone": "+41 1",
        "extRef": "r-1",
        "language": "DE",
        "embeddedData": {"tier": "gold"},
        "privateEmbeddedData": {"venue": "Halle 7"},
    }
    assert second.json == {"extRef": "r-2"}


@pytest.mark.parametrize(
    "result",
    [
        {"id": CONTACT},
        {"contactLookupId": LOOKUP},
        {"id": CONTACT, "contactLookupId": None},
        {"id": CONTACT, "contactLookupId": LOOKUP + "x"},
        {"id": CONTACT, "contactLookupId": LOOKUP + "\n"},
        {"id": CONTACT, "contactLookupId": LOOKUP.replace("CGC", "MLRP")},
        {"id": LOOKUP, "contactLookupId": LOOKUP},
        {"id": CONTACT[:-1], "contactLookupId": LOOKUP},
        {"id": 7, "contactLookupId": LOOKUP},
        None,
    ],
)
async def test_an_add_without_two_good_ids_is_an_unknown_outcome(
    result: object, origin: Origin, upstream: Upstream
) -> None:
    """No link is ever built from half an answer."""
    origin.answers = [origin.ok(result)]
    with pytest.raises(UnknownOutcome) as caught:
        await upstream.add_list_contact(DIRECTORY, LIST, ContactFields(ref="r"))
    assert caught.value.cause == "no-result"


async def test_a_distribution_is_made_of_individual_links_until_a_moment_in_utc(
    origin: Origin, upstream: Upstream
) -> None:
    """A date without `Z` would be read as Mountain Time, so one without a zone is not sent."""
    origin.answers = [origin.ok({"id": DISTRIBUTION})]
    noon = datetime(2026, 12, 1, 12, 0, 30, 999_999, tzinfo=timezone(timedelta(hours=1)))
    made = await upstream.create_distribution(SURVEY, LIST, "milepost d1 slot 1", noon)
    assert made == DISTRIBUTION
    assert (origin.seen[0].method, origin.seen[0].target) == ("POST", "/API/v3/distributions")
    assert origin.seen[0].json == {
        "surveyId": SURVEY,
        "mailingListId": LIST,
        "description": "milepost d1 slot 1",
        "expirationDate": "2026-12-01T11:00:30Z",
        "linkType": "Individual",
        "action": "CreateDistribution",
    }
    with pytest.raises(ValueError, match="without a zone"):
        await upstream.create_distribution(SURVEY, LIST, "x", noon.replace(tzinfo=None))
    assert len(origin.seen) == 1


async def test_writes_without_a_result_go_where_their_names_say(
    origin: Origin, upstream: Upstream
) -> None:
    """Deletions and updates are answered with an envelope alone."""
    origin.answers = [origin.ok()]
    await upstream.update_list_contact(DIRECTORY, LIST, CONTACT, ContactFields(language="FR"))
    await upstream.delete_mailing_list(DIRECTORY, LIST)
    assert [(seen.method, seen.target, seen.body) for seen in origin.seen] == [
        ("PUT", f"{CONTACTS}/{CONTACT}", b'{"language":"FR"}'),
        ("DELETE", f"{LISTS}/{LIST}", b""),
    ]


async def test_a_mailing_list_is_made_by_name(origin: Origin, upstream: Upstream) -> None:
    """Its id is the answer."""
    origin.answers = [origin.ok({"id": LIST})]
    assert await upstream.create_mailing_list(DIRECTORY, "milepost d1 home") == LIST
    assert (origin.seen[0].target, origin.seen[0].json) == (LISTS, {"name": "milepost d1 home"})


@pytest.mark.parametrize("bad", ["", "CG_short", f"{LIST}/..", f"{LIST}\n", CONTACT, f"x{LIST}"])
async def test_no_path_is_made_of_what_is_not_an_id(
    bad: str, origin: Origin, upstream: Upstream
) -> None:
    """A wrong id is an error before anything is sent."""
    for call in (
        upstream.add_list_contact(DIRECTORY, bad, ContactFields(ref="r")),
        upstream.delete_mailing_list(DIRECTORY, bad),
        upstream.create_distribution(SURVEY, bad, "x", datetime.now(UTC)),
    ):
        with pytest.raises(ValueError, match="not an id of the form CG_"):
            await call
    assert origin.connections == 0


# --- what is read -------------------------------------------------------------------------------


async def test_directories_name_their_criteria_as_we_do(origin: Origin, upstream: Upstream) -> None:
    """The platform's names of fields become ours."""
    criteria = {"email": True, "firstName": False, "lastName": True, "phone": True}
    element = {
        "directoryId": DIRECTORY,
        "name": "Default",
        "isDefault": True,
        "deduplicationCriteria": criteria | {"externalDataReference": True},
    }
    origin.answers = [origin.ok({"elements": [element], "nextPage": None})]
    (found,) = await upstream.directories()
    assert (found.directory_id, found.is_default) == (DIRECTORY, True)
    assert found.dedup_criteria == {"email", "last_name", "ref", "phone"}


async def test_lists_are_read_page_by_page_as_they_are_iterated(
    origin: Origin, upstream: Upstream
) -> None:
    """The second page is asked for when the first is used up, not before."""
    element = {"mailingListId": LIST, "name": "milepost", "contactCount": 3}
    page = {"elements": [element], "nextPage": "https://x/?skipToken=t1&pageSize=1"}
    origin.answers = [origin.ok(page), origin.ok({"elements": [element]})]
    found = upstream.mailing_lists(DIRECTORY)
    assert (await anext(found)).list_id == LIST
    assert [seen.target for seen in origin.seen] == [f"{LISTS}?pageSize=100"]
    assert (await anext(found)).name == "milepost"
    assert [seen.target for seen in origin.seen[1:]] == [f"{LISTS}?pageSize=100&skipToken=t1"]
    assert [left async for left in found] == []


async def test_contacts_of_a_list_come_with_lookup_ids(origin: Origin, upstream: Upstream) -> None:
    """By which a probe is found again; what nobody asks for is not looked at."""
    element = {
        "contactId": CONTACT,
        "contactLookupId": LOOKUP,
        "email": "ada@example.com",
        "extRef": "r-1",
        "firstName": None,
        "unsubscribed": False,
        "mailingListUnsubscribed": True,
        "embeddedData": {"tier": "gold"},
    }
    bare = {"contactId": CONTACT, "contactLookupId": LOOKUP}
    origin.answers = [origin.ok({"elements": [element, bare], "nextPage": None})]
    assert [each async for each in upstream.list_contacts(DIRECTORY, LIST)] == [
        ListContact(CONTACT, LOOKUP, "r-1"),
        ListContact(CONTACT, LOOKUP),
    ]
    assert [seen.target for seen in origin.seen] == [f"{CONTACTS}?pageSize=100"]


async def test_a_contact_tells_its_memberships(origin: Origin, upstream: Upstream) -> None:
    """The proof that an add took effect is the list's lookup id; no lists may also be null."""
    members = {LIST: {"contactLookupId": LOOKUP, "unsubscribed": False}}
    origin.answers = [
        origin.ok({"contactId": CONTACT, "extRef": "r-1", "mailingListMembership": members}),
        origin.ok({"contactId": CONTACT, "mailingListMembership": None}),
        origin.ok({"contactId": CONTACT}),
    ]
    contact = await upstream.get_contact(DIRECTORY, CONTACT)
    assert contact.memberships == {LIST: LOOKUP}
    assert (await upstream.get_contact(DIRECTORY, CONTACT)).memberships == {}
    with pytest.raises(Unreadable):
        await upstream.get_contact(DIRECTORY, CONTACT)
    assert origin.seen[0].target == f"/API/v3/directories/{DIRECTORY}/contacts/{CONTACT}"


@pytest.mark.parametrize("key", ["id", "contactId"])
async def test_a_search_asks_by_ref_and_takes_either_name_of_the_id(
    key: str, origin: Origin, upstream: Upstream
) -> None:
    """It is a read, so a failing gateway is asked again with the same body."""
    origin.answers = [
        origin.raw(502, b""),
        origin.ok({"elements": [{key: CONTACT, "extRef": "r-1"}], "nextPage": "?skipToken=t1"}),
        origin.ok({"elements": [], "nextPage": None}),
    ]
    found = [hit async for hit in upstream.search_contacts(DIRECTORY, ref="r-1")]
    assert [hit.contact_id for hit in found] == [CONTACT]
    path = f"/API/v3/directories/{DIRECTORY}/contacts/search?pageSize=100"
    body = {"filter": {"filterType": "extRef", "comparison": "eq", "value": "r-1"}}
    assert [(seen.method, seen.target, seen.json) for seen in origin.seen] == [
        ("POST", path, body),
        ("POST", path, body),
        ("POST", f"{path}&skipToken=t1", body),
    ]


async def test_a_hit_without_an_id_is_not_read(origin: Origin, upstream: Upstream) -> None:
    """A search never says that nobody was found when somebody was."""
    origin.answers = [origin.ok({"elements": [{"extRef": "r-1"}]})]
    with pytest.raises(Unreadable):
        _ = [hit async for hit in upstream.search_contacts(DIRECTORY, ref="r-1")]


async def test_distributions_name_the_list_that_they_stand_on(
    origin: Origin, upstream: Upstream
) -> None:
    """By it a distribution is found again whose making had an unknown outcome."""
    element = {"id": DISTRIBUTION, "recipients": {"mailingListId": LIST, "contactId": None}}
    batch = {"id": DISTRIBUTION, "recipients": {"mailingListId": None}}
    origin.answers = [origin.ok({"elements": [element, batch], "nextPage": None})]
    found = [each async for each in upstream.distributions(SURVEY)]
    assert [(each.distribution_id, each.list_id) for each in found] == [
        (DISTRIBUTION, LIST),
        (DISTRIBUTION, None),
    ]
    assert origin.seen[0].target == f"/API/v3/distributions?surveyId={SURVEY}"


async def test_listed_links_have_moments_with_a_zone(origin: Origin, upstream: Upstream) -> None:
    """A date without one is not guessed at; more than calibration needs is not wanted."""
    element = {"contactId": CONTACT, "link": LINK, "linkExpiration": "2026-12-01T11:00:30Z"}
    zoneless = element | {"linkExpiration": "2026-12-01 11:00:30"}
    origin.answers = [origin.ok({"elements": [element]}), origin.ok({"elements": [zoneless]})]
    (link,) = [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)]
    assert (link.contact_id, link.link) == (CONTACT, LINK)
    assert link.expires_at == datetime(2026, 12, 1, 11, 0, 30, tzinfo=UTC)
    path = f"/API/v3/distributions/{DISTRIBUTION}/links?surveyId={SURVEY}"
    assert origin.seen[0].target == path
    with pytest.raises(Unreadable):
        _ = [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)]


async def test_history_tells_a_links_response(origin: Origin, upstream: Upstream) -> None:
    """None, as long as nobody has answered; the entry of nobody has no lookup id."""
    elements = [
        {"contactLookupId": LOOKUP, "responseId": "R_1l9mcVuXubb4aGm", "status": "SurveyFinished"},
        {"contactLookupId": LOOKUP, "responseId": None},
        {"contactLookupId": None},
    ]
    origin.answers = [origin.ok({"elements": elements, "nextPage": None})]
    assert [entry async for entry in upstream.history(DISTRIBUTION)] == [
        HistoryEntry(LOOKUP, "R_1l9mcVuXubb4aGm"),
        HistoryEntry(LOOKUP),
        HistoryEntry(None),
    ]
    assert origin.seen[0].target == f"/API/v3/distributions/{DISTRIBUTION}/history"


async def test_a_distribution_without_recipients_has_no_history(
    origin: Origin, upstream: Upstream
) -> None:
    """The platform's refusal of it is an answer; any other refusal is one."""
    origin.answers = [
        origin.error(400, "CP_TD_GER_NP", "no recipients"),
        origin.error(400, "CP_1", "no"),
    ]
    assert [entry async for entry in upstream.history(DISTRIBUTION)] == []
    with pytest.raises(Refused):
        _ = [entry async for entry in upstream.history(DISTRIBUTION)]


async def test_a_survey_declares_fields_at_any_depth_of_its_flow(
    origin: Origin, upstream: Upstream
) -> None:
    """Branches and groups hold elements of their own."""
    declare = {"Type": "EmbeddedData", "EmbeddedData": [{"Field": "venue", "Type": "Recipient"}]}
    inner = {"Type": "EmbeddedData", "EmbeddedData": [{"Field": "milepost_ref"}]}
    flow = [declare, {"Type": "Branch", "Flow": [{"Type": "Group", "Flow": [inner]}]}]
    result = {
        "SurveyStatus": "Active",
        "SurveyFlow": {"Type": "Root", "Flow": flow, "Properties": {"Count": 3}},
    }
    origin.answers = [origin.ok(result), origin.ok(result | {"SurveyStatus": "Inactive"})]
    survey = await upstream.survey_definition(SURVEY)
    assert survey.active is True
    assert survey.fields == {"venue", "milepost_ref"}
    assert (await upstream.survey_definition(SURVEY)).active is False
    assert origin.seen[0].target == f"/API/v3/survey-definitions/{SURVEY}"


async def test_a_response_holds_its_values(origin: Origin, upstream: Upstream) -> None:
    """Answers and embedded data stand side by side, of any type."""
    values = {"finished": 1, "venue": "Halle 7", "QID1": 5, "QID2": ["a"], "x": None}
    origin.answers = [origin.ok({"responseId": "R_1l9mcVuXubb4aGm", "values": values})]
    read = await upstream.response(SURVEY, "R_1l9mcVuXubb4aGm")
    assert read.values == values
    assert origin.seen[0].target == f"/API/v3/surveys/{SURVEY}/responses/R_1l9mcVuXubb4aGm"
