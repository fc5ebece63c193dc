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
    ItemRefusal,
    ListContact,
    MailingList,
    Refused,
    Subscription,
    Survey,
    TransactionFields,
    UnknownOutcome,
    Unreadable,
    Upstream,
)

if TYPE_CHECKING:
    from conftest import Origin

DIRECTORY, LIST, CONTACT = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl", "CID_9Jkl8ZA9qOnOc46"
LOOKUP, SURVEY = "CGC_84eTRcYZ0Oau98P", "SV_yxgJYWKCmDogBXz"
DISTRIBUTION = "EMD_SN74IhsDHkP3g6f"
TRANSACTION, OTHER, BATCH = "CTR_uPc2GccLXvRjZl9", "CTR_0Pc2GccLXvRjZl9", "BT_fh2Ku3oXgkxV1aR"
IMPORT, SUBSCRIPTION = "PGRS_kD3pWuQ9xVb2NsT", "SUB_3XRZ4meJaUlhgGP"
POOL = f"/API/v3/directories/{DIRECTORY}"
LISTS = f"{POOL}/mailinglists"
CONTACTS = f"{LISTS}/{LIST}/contacts"
NOON = datetime(2026, 12, 1, 12, 0, 30, 999_999, tzinfo=timezone(timedelta(hours=1)))
LINK = f"https://b.example.com/jfe/form/{SURVEY}?Q_CHL=gl&Q_DL={DISTRIBUTION}_x"


# --- what is sent -------------------------------------------------------------------------------


async def test_every_request_carries_the_token_and_asks_for_plain_json(
    origin: Origin, upstream: Upstream
) -> None:
    """No other header than these leaves."""
    origin.answers = [origin.ok({"brandId": "b", "userId": "UR_1", "datacenter": "fra1"})]
    assert await upstream.whoami() == Account("UR_1", "b", "fra1")
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
    made = await upstream.create_distribution(SURVEY, LIST, "milepost d1 slot 1", NOON)
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
        await upstream.create_distribution(SURVEY, LIST, "x", NOON.replace(tzinfo=None))
    assert len(origin.seen) == 1


async def test_a_distribution_may_be_for_one_contact_of_a_list(
    origin: Origin, upstream: Upstream
) -> None:
    """They are named by their place in it, and no other id is taken for that."""
    origin.answers = [origin.ok({"id": DISTRIBUTION})]
    await upstream.create_distribution(SURVEY, LIST, "x", NOON, contact_id=LOOKUP)
    assert origin.seen[0].json == {
        "surveyId": SURVEY,
        "mailingListId": LIST,
        "contactId": LOOKUP,
        "description": "x",
        "expirationDate": "2026-12-01T11:00:30Z",
        "linkType": "Individual",
        "action": "CreateDistribution",
    }
    with pytest.raises(ValueError, match="not an id of the form CGC_"):
        await upstream.create_distribution(SURVEY, LIST, "x", NOON, contact_id=CONTACT)


async def test_a_distribution_may_stand_on_a_batch(origin: Origin, upstream: Upstream) -> None:
    """It names no list, and its action is another one."""
    origin.answers = [origin.ok({"id": DISTRIBUTION})]
    made = await upstream.create_batch_distribution(SURVEY, BATCH, "milepost d1", NOON)
    assert made == DISTRIBUTION
    assert origin.seen[0].json == {
        "surveyId": SURVEY,
        "transactionBatchId": BATCH,
        "description": "milepost d1",
        "expirationDate": "2026-12-01T11:00:30Z",
        "linkType": "Individual",
        "action": "CreateTransactionBatchDistribution",
    }


async def test_transactions_are_sent_under_keys_of_our_choice(
    origin: Origin, upstream: Upstream
) -> None:
    """A 200 may hold refusals, and may leave some out: then nobody knows what became of those."""
    fields = TransactionFields(contact_id=CONTACT, list_id=LIST, at=NOON, data={"venue": "Halle 7"})
    origin.answers = [
        origin.ok(
            {
                "createdTransactions": {"k1": {"id": TRANSACTION}},
                "unprocessedTransactions": {
                    "k2": {"error": "NOT_IN_LIST", "errorMessage": "Ada is not in it"},
                    "k3": "Ada is not in it",
                },
            }
        )
    ]
    made = await upstream.create_transactions(
        DIRECTORY, dict.fromkeys(["k1", "k2", "k3", "k4"], fields)
    )
    assert made.created == {"k1": TRANSACTION}
    assert made.refused == {
        "k2": ItemRefusal("NOT_IN_LIST", "Ada is not in it"),
        "k3": ItemRefusal(None),
    }
    assert "Ada" not in repr(made)
    assert made.untold == {"k4"}
    sent = {
        "contactId": CONTACT,
        "mailingListId": LIST,
        "transactionDate": "2026-12-01 11:00:30",
        "data": {"venue": "Halle 7"},
    }
    assert (origin.seen[0].method, origin.seen[0].target) == ("POST", f"{POOL}/transactions")
    assert origin.seen[0].json == dict.fromkeys(["k1", "k2", "k3", "k4"], sent)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"createdTransactions": None, "unprocessedTransactions": None},
        {"createdTransactions": {"k1": {"id": CONTACT}}},
        {"createdTransactions": {"k1": None}},
        {"createdTransactions": {"k9": {"id": TRANSACTION}}},
        {"unprocessedTransactions": {"k9": {}}},
        {"createdTransactions": {"k1": {"id": TRANSACTION}, "k2": {"id": TRANSACTION}}},
        {
            "createdTransactions": {"k1": {"id": TRANSACTION}},
            "unprocessedTransactions": {"k1": {"error": "X_1"}},
        },
    ],
)
async def test_an_answer_about_other_transactions_is_an_unknown_outcome(
    result: object, origin: Origin, upstream: Upstream
) -> None:
    """No transaction is ever ascribed to an event that it may not belong to."""
    fields = TransactionFields(contact_id=CONTACT, list_id=LIST, at=NOON, data={})
    origin.answers = [origin.ok(result)]
    with pytest.raises(UnknownOutcome) as caught:
        await upstream.create_transactions(DIRECTORY, {"k1": fields, "k2": fields})
    assert caught.value.cause == "no-result"


async def test_batches_are_made_and_grow(origin: Origin, upstream: Upstream) -> None:
    """Empty, or of transactions that are there; only ids of transactions are sent."""
    origin.answers = [origin.ok({"id": BATCH}), origin.ok({"id": BATCH}), origin.ok()]
    assert await upstream.create_batch(DIRECTORY) == BATCH
    assert await upstream.create_batch(DIRECTORY, [TRANSACTION]) == BATCH
    await upstream.add_to_batch(DIRECTORY, BATCH, [TRANSACTION, OTHER])
    with pytest.raises(ValueError, match="not an id of the form CTR_"):
        await upstream.add_to_batch(DIRECTORY, BATCH, [TRANSACTION, LOOKUP])
    assert [(seen.method, seen.target, seen.json) for seen in origin.seen] == [
        ("POST", f"{POOL}/transactionbatches", {}),
        ("POST", f"{POOL}/transactionbatches", {"transactionIds": [TRANSACTION]}),
        (
            "POST",
            f"{POOL}/transactionbatches/{BATCH}/transactions",
            {"transactionIds": [TRANSACTION, OTHER]},
        ),
    ]


async def test_an_import_takes_many_contacts_and_no_private_data(
    origin: Origin, upstream: Upstream
) -> None:
    """It goes on at the platform; private data would be lost on the way there."""
    private = ContactFields(ref="r-3", private_embedded_data={"venue": "Halle 7"})
    origin.answers = [origin.ok({"id": IMPORT, "tracking": {"url": "x"}, "status": "inProgress"})]
    people = [ContactFields(ref="r-1", email="ada@example.com"), ContactFields(ref="r-2")]
    assert await upstream.start_import(DIRECTORY, LIST, people) == IMPORT
    for call in (
        upstream.start_import(DIRECTORY, LIST, [*people, private]),
        upstream.create_contact(DIRECTORY, private),
        upstream.update_contact(DIRECTORY, CONTACT, private),
    ):
        with pytest.raises(ValueError, match="private data"):
            await call
    assert [(seen.target, seen.json) for seen in origin.seen] == [
        (
            f"{LISTS}/{LIST}/transactioncontacts",
            {"contacts": [{"email": "ada@example.com", "extRef": "r-1"}, {"extRef": "r-2"}]},
        )
    ]


async def test_a_subscription_is_signed_and_not_encrypted(
    origin: Origin, upstream: Upstream
) -> None:
    """We check the signature; of the encryption nothing is known."""
    topic, where = f"surveyengine.completedResponse.{SURVEY}", "https://m.example.com/events"
    origin.answers = [origin.ok({"id": SUBSCRIPTION})]
    assert await upstream.create_subscription(topic, where, "k3y") == SUBSCRIPTION
    assert origin.seen[0].target == "/API/v3/eventsubscriptions"
    assert origin.seen[0].json == {
        "topics": topic,
        "publicationUrl": where,
        "encrypt": False,
        "sharedKey": "k3y",
    }


async def test_writes_without_a_result_go_where_their_names_say(
    origin: Origin, upstream: Upstream
) -> None:
    """Deletions and updates are answered with an envelope alone."""
    origin.answers = [origin.ok()]
    french = ContactFields(language="FR")
    await upstream.update_list_contact(DIRECTORY, LIST, CONTACT, french)
    await upstream.remove_list_contact(DIRECTORY, LIST, CONTACT)
    await upstream.update_contact(DIRECTORY, CONTACT, french)
    await upstream.delete_contact(DIRECTORY, CONTACT)
    await upstream.delete_mailing_list(DIRECTORY, LIST)
    await upstream.delete_transaction(DIRECTORY, TRANSACTION)
    await upstream.delete_batch(DIRECTORY, BATCH)
    await upstream.delete_distribution(DISTRIBUTION)
    await upstream.delete_subscription(SUBSCRIPTION)
    assert [(seen.method, seen.target, seen.body) for seen in origin.seen] == [
        ("PUT", f"{CONTACTS}/{CONTACT}", b'{"language":"FR"}'),
        ("DELETE", f"{CONTACTS}/{CONTACT}", b""),
        ("PUT", f"{POOL}/contacts/{CONTACT}", b'{"language":"FR"}'),
        ("DELETE", f"{POOL}/contacts/{CONTACT}", b""),
        ("DELETE", f"{LISTS}/{LIST}", b""),
        ("DELETE", f"{POOL}/transactions/{TRANSACTION}", b""),
        ("DELETE", f"{POOL}/transactionbatches/{BATCH}", b""),
        ("DELETE", f"/API/v3/distributions/{DISTRIBUTION}", b""),
        ("DELETE", f"/API/v3/eventsubscriptions/{SUBSCRIPTION}", b""),
    ]


async def test_a_contact_is_made_in_the_directory_alone(origin: Origin, upstream: Upstream) -> None:
    """It has no lookup id, since it is in no list."""
    origin.answers = [origin.ok({"id": CONTACT})]
    assert await upstream.create_contact(DIRECTORY, ContactFields(ref="r-1")) == CONTACT
    assert (origin.seen[0].target, origin.seen[0].json) == (f"{POOL}/contacts", {"extRef": "r-1"})


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
    """And with what the directory knows of them, as far as it is there."""
    element = {
        "contactId": CONTACT,
        "contactLookupId": LOOKUP,
        "email": "ada@example.com",
        "extRef": "r-1",
        "firstName": "Ada",
        "lastName": None,
        "phone": "+41 1",
        "language": "DE",
        "unsubscribed": False,
        "mailingListUnsubscribed": True,
        "embeddedData": {"tier": "gold", "visits": 3},
    }
    bare = {"contactId": CONTACT, "contactLookupId": LOOKUP}
    origin.answers = [
        origin.ok({"elements": [element, bare], "nextPage": None}),
        origin.ok({"elements": []}),
        origin.ok(element),
    ]
    ada, other = [each async for each in upstream.list_contacts(DIRECTORY, LIST)]
    assert (ada.contact_id, ada.lookup_id, ada.ref) == (CONTACT, LOOKUP, "r-1")
    assert (ada.email, ada.first_name, ada.last_name) == ("ada@example.com", "Ada", None)
    assert (ada.phone, ada.language) == ("+41 1", "DE")
    assert (ada.unsubscribed, ada.list_unsubscribed) == (False, True)
    assert ada.embedded_data == {"tier": "gold", "visits": 3}
    assert other == ListContact(CONTACT, LOOKUP)
    assert other.embedded_data == {}
    rest = upstream.list_contacts(DIRECTORY, LIST, include_embedded=True)
    assert [each async for each in rest] == []
    assert await upstream.get_list_contact(DIRECTORY, LIST, CONTACT) == ada
    assert [seen.target for seen in origin.seen] == [
        f"{CONTACTS}?pageSize=100",
        f"{CONTACTS}?pageSize=100&includeEmbedded=true",
        f"{CONTACTS}/{CONTACT}",
    ]


async def test_a_contact_tells_its_memberships(origin: Origin, upstream: Upstream) -> None:
    """The proof that an add took effect is the list's lookup id; no lists may also be null."""
    members = {LIST: {"contactLookupId": LOOKUP, "unsubscribed": False}}
    origin.answers = [
        origin.ok({"contactId": CONTACT, "extRef": "r-1", "mailingListMembership": members}),
        origin.ok({"contactId": CONTACT, "mailingListMembership": None}),
        origin.ok({"contactId": CONTACT}),
    ]
    contact = await upstream.get_contact(DIRECTORY, CONTACT)
    assert (contact.memberships, contact.ref) == ({LIST: LOOKUP}, "r-1")
    nobody = await upstream.get_contact(DIRECTORY, CONTACT)
    assert (nobody.memberships, nobody.embedded_data, nobody.unsubscribed) == ({}, {}, False)
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
    """And when their links expire: by both one is found whose making had an unknown outcome."""
    element = {"id": DISTRIBUTION, "recipients": {"mailingListId": LIST, "contactId": None}}
    batch = {"id": DISTRIBUTION, "recipients": {"mailingListId": None}}
    dates = ("2027-01-08T21:27:49Z", "2027-01-08 21:27:49", "soon", None)
    dated = [element | {"surveyLink": {"expirationDate": date}} for date in dates]
    origin.answers = [origin.ok({"elements": [element, batch, *dated], "nextPage": None})]
    found = [each async for each in upstream.distributions(SURVEY)]
    assert [(each.distribution_id, each.list_id, each.expires_at) for each in found] == [
        (DISTRIBUTION, LIST, None),
        (DISTRIBUTION, None, None),
        (DISTRIBUTION, LIST, datetime(2027, 1, 8, 21, 27, 49, tzinfo=UTC)),
        *[(DISTRIBUTION, LIST, None)] * 3,  # a date without a zone is not guessed at
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
        {
            "contactLookupId": LOOKUP,
            "responseId": "R_1l9mcVuXubb4aGm",
            "status": "SurveyFinished",
            "surveyLink": LINK,
        },
        {"contactLookupId": LOOKUP, "responseId": None},
        {"contactLookupId": None},
    ]
    origin.answers = [origin.ok({"elements": elements, "nextPage": None})]
    assert [entry async for entry in upstream.history(DISTRIBUTION)] == [
        HistoryEntry(LOOKUP, "R_1l9mcVuXubb4aGm", "SurveyFinished", LINK),
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
        "BrandBaseURL": "https://brand.example.com",
        "SurveyOptions": {"SurveyProtection": "ByInvitation"},
        "SurveyFlow": {"Type": "Root", "Flow": flow, "Properties": {"Count": 3}},
    }
    least = {"SurveyStatus": "Inactive", "SurveyFlow": {"Type": "Root"}}
    public = result | {"SurveyOptions": {"SurveyProtection": "PublicSurvey"}}
    origin.answers = [origin.ok(result), origin.ok(public), origin.ok(least)]
    survey = await upstream.survey_definition(SURVEY)
    assert (survey.active, survey.invitation_only) == (True, True)
    assert survey.base_url == "https://brand.example.com"
    assert survey.fields == {"venue", "milepost_ref"}
    assert (await upstream.survey_definition(SURVEY)).invitation_only is False
    other = await upstream.survey_definition(SURVEY)
    assert (other.active, other.invitation_only, other.base_url) == (False, None, None)
    assert origin.seen[0].target == f"/API/v3/survey-definitions/{SURVEY}"


async def test_a_response_holds_its_values(origin: Origin, upstream: Upstream) -> None:
    """Answers and embedded data stand side by side, of any type."""
    values = {"finished": 1, "venue": "Halle 7", "QID1": 5, "QID2": ["a"], "x": None}
    origin.answers = [origin.ok({"responseId": "R_1l9mcVuXubb4aGm", "values": values})]
    read = await upstream.response(SURVEY, "R_1l9mcVuXubb4aGm")
    assert read.values == values
    assert origin.seen[0].target == f"/API/v3/surveys/{SURVEY}/responses/R_1l9mcVuXubb4aGm"


async def test_a_list_is_read_by_its_id(origin: Origin, upstream: Upstream) -> None:
    """A name tells whose it is."""
    origin.answers = [origin.ok({"mailingListId": LIST, "name": "milepost d1 home"})]
    assert await upstream.mailing_list(DIRECTORY, LIST) == MailingList(LIST, "milepost d1 home")
    assert origin.seen[0].target == f"{LISTS}/{LIST}"


async def test_an_import_tells_how_far_it_is(origin: Origin, upstream: Upstream) -> None:
    """Counts come when they come."""
    counts = {"added": 2, "updated": 1, "failed": 1, "unchanged": 0}
    origin.answers = [
        origin.ok({"percentComplete": 0, "status": "inProgress"}),
        origin.ok({"percentComplete": 100.0, "contacts": {"count": counts}, "status": "complete"}),
    ]
    first = await upstream.import_progress(DIRECTORY, LIST, IMPORT)
    then = await upstream.import_progress(DIRECTORY, LIST, IMPORT)
    assert (first.done, first.percent_complete, first.added) == (False, 0, 0)
    assert (then.done, then.added, then.updated, then.failed) == (True, 2, 1, 1)
    assert origin.seen[0].target == f"{LISTS}/{LIST}/transactioncontacts/{IMPORT}"


async def test_who_opted_out_is_told_page_by_page(origin: Origin, upstream: Upstream) -> None:
    """By the contact's id and the app's own; a later reader begins behind any page."""
    more = {"elements": [{"contactId": CONTACT, "extRef": "r-1"}], "nextPage": "/x?skipToken=a/b"}
    origin.answers = [origin.ok(more), origin.ok({"elements": []}), origin.ok({"elements": []})]
    first, last = [page async for page in upstream.opted_out_pages(DIRECTORY)]
    assert [(one.contact_id, one.ref) for one in first.elements] == [(CONTACT, "r-1")]
    assert (last.elements, last.cursor) == ([], None)
    again = upstream.opted_out_pages(DIRECTORY, cursor=first.cursor)
    assert [page async for page in again] == [last]
    path = f"{POOL}/contacts/optedOutContacts?pageSize=100"
    assert [seen.target for seen in origin.seen] == [path, *[f"{path}&skipToken=a%2Fb"] * 2]


async def test_a_lists_contacts_are_read_from_any_page_on(
    origin: Origin, upstream: Upstream
) -> None:
    """By the cursor of the page before; one that leads back to itself is followed once."""
    element = {"contactId": CONTACT, "contactLookupId": LOOKUP}
    circle = {"elements": [element], "nextPage": "https://other.example/?skipToken=t7"}
    origin.answers = [origin.ok(circle), origin.ok({"elements": [element]}), origin.ok(circle)]
    (page, rest) = [one async for one in upstream.list_contact_pages(DIRECTORY, LIST)]
    assert (page.elements, rest.cursor) == ([ListContact(CONTACT, LOOKUP)], None)
    with pytest.raises(Unreadable):
        await anext(upstream.list_contact_pages(DIRECTORY, LIST, cursor=page.cursor))
    path = f"{CONTACTS}?pageSize=100"
    assert [seen.target for seen in origin.seen] == [path, *[f"{path}&skipToken=t7"] * 2]


async def test_transactions_are_read_alone_and_by_contact(
    origin: Origin, upstream: Upstream
) -> None:
    """The platform's dates are UTC without saying so; either name of the id is taken."""
    whole = {
        "contactId": CONTACT,
        "mailingListId": LIST,
        "transactionDate": "2026-12-01 11:00:30",
        "data": {"venue": "Halle 7"},
        "transactionId": TRANSACTION,
    }
    part = {"id": OTHER, "transactionDate": "2026-12-01 11:00:31", "data": None}
    origin.answers = [
        origin.ok(whole),
        origin.ok({"elements": [whole, part], "nextPage": None}),
        origin.ok(whole | {"transactionDate": "2026-12-01T11:00:30+01:00"}),
    ]
    alone = await upstream.transaction(DIRECTORY, TRANSACTION)
    assert (alone.transaction_id, alone.contact_id, alone.list_id) == (TRANSACTION, CONTACT, LIST)
    assert alone.at == datetime(2026, 12, 1, 11, 0, 30, tzinfo=UTC)
    assert alone.data == {"venue": "Halle 7"}
    first, second = [each async for each in upstream.contact_transactions(DIRECTORY, CONTACT)]
    assert first == alone
    assert (second.transaction_id, second.data) == (OTHER, {})
    with pytest.raises(Unreadable):
        await upstream.transaction(DIRECTORY, TRANSACTION)
    assert [seen.target for seen in origin.seen[:2]] == [
        f"{POOL}/transactions/{TRANSACTION}",
        f"{POOL}/contacts/{CONTACT}/transactions?pageSize=100",
    ]


async def test_a_batch_is_read_as_ids(origin: Origin, upstream: Upstream) -> None:
    """By which it is seen whether an addition took effect; an entry without an id tells nothing."""
    origin.answers = [
        origin.ok({"elements": [{"transactionId": TRANSACTION}, {"id": OTHER}]}),
        origin.ok({"elements": [{}]}),
    ]
    found = [each async for each in upstream.batch_transactions(DIRECTORY, BATCH)]
    assert found == [TRANSACTION, OTHER]
    with pytest.raises(Unreadable):
        _ = [each async for each in upstream.batch_transactions(DIRECTORY, BATCH)]
    path = f"{POOL}/transactionbatches/{BATCH}/transactions?pageSize=100"
    assert origin.seen[0].target == path


async def test_a_distribution_comes_with_counts(origin: Origin, upstream: Upstream) -> None:
    """All nine of them, and none below nothing."""
    names = [
        "sent",
        "failed",
        "started",
        "bounced",
        "opened",
        "skipped",
        "finished",
        "complaints",
        "blocked",
    ]
    stats = {name: number for number, name in enumerate(names)}
    whole = {"id": DISTRIBUTION, "recipients": {"mailingListId": LIST}, "stats": stats}
    origin.answers = [origin.ok(whole), origin.ok(whole | {"stats": stats | {"sent": -1}})]
    found = await upstream.distribution(DISTRIBUTION, SURVEY)
    assert (found.distribution_id, found.list_id) == (DISTRIBUTION, LIST)
    assert (found.stats.started, found.stats.finished) == (2, 6)
    with pytest.raises(Unreadable):
        await upstream.distribution(DISTRIBUTION, SURVEY)
    path = f"/API/v3/distributions/{DISTRIBUTION}?surveyId={SURVEY}"
    assert origin.seen[0].target == path


async def test_the_links_of_a_batch_name_their_transactions(
    origin: Origin, upstream: Upstream
) -> None:
    """One contact may have several."""
    element = {"contactId": CONTACT, "link": LINK, "linkExpiration": None}
    origin.answers = [origin.ok({"elements": [element | {"transactionId": TRANSACTION}, element]})]
    found = [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)]
    assert [each.transaction_id for each in found] == [TRANSACTION, None]


async def test_surveys_are_paged_by_offset(origin: Origin, upstream: Upstream) -> None:
    """Other than everything else (observed in clients)."""
    survey = {"id": SURVEY, "name": "After the visit", "isActive": True}
    page = {"elements": [survey], "nextPage": "https://x.example.com/surveys?offset=100"}
    origin.answers = [origin.ok(page), origin.ok({"elements": [], "nextPage": None})]
    found = [each async for each in upstream.surveys()]
    assert found == [Survey(SURVEY, "After the visit", active=True)]
    assert [seen.target for seen in origin.seen] == [
        "/API/v3/surveys",
        "/API/v3/surveys?offset=100",
    ]


async def test_subscriptions_are_listed(origin: Origin, upstream: Upstream) -> None:
    """By their address ours are known."""
    element = {
        "id": SUBSCRIPTION,
        "scope": "brand",
        "topics": "surveyengine.completedResponse.SV_1",
        "publicationUrl": "https://m.example.com/events",
        "encrypted": False,
    }
    origin.answers = [origin.ok({"elements": [element], "nextPage": None})]
    assert [each async for each in upstream.subscriptions()] == [
        Subscription(
            SUBSCRIPTION, "surveyengine.completedResponse.SV_1", "https://m.example.com/events"
        )
    ]
