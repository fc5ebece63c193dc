"""Distributions, their links, and what history says of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

Customer = Any

LINK = re.compile(
    r"(?P<origin>http://127\.0\.0\.1:\d+)/jfe/form/(?P<survey>SV_\w{15})"
    r"\?Q_CHL=gl&Q_DL=(?P<distribution>EMD_\w{15})_(?P<again>\w{15})_(?P<lookup>CGC_\w{15})&_g_=g"
)


def _read(customer: Customer, distribution: str) -> dict[str, Any]:
    path = f"/distributions/{distribution}?surveyId={customer.ready.survey_id}"
    found: dict[str, Any] = customer.result("GET", path)
    return found


def test_a_link_is_made_of_its_parts(shared: Customer) -> None:
    """A distribution on an empty list; a contact added later has a link at once."""
    path = shared.mailing_list()
    distribution = shared.distribute(path)
    assert shared.links(distribution) == []
    contact, lookup = shared.add(path, firstName="Ada", extRef="r1")
    shown = shared.elements(
        f"/distributions/{distribution}/links?surveyId={shared.ready.survey_id}"
    )
    parts = LINK.fullmatch(shown[0]["link"])
    assert parts is not None
    assert parts.groupdict() == {
        "origin": shared.ready.origin,
        "survey": shared.ready.survey_id,
        "distribution": distribution,
        "again": shared.ready.survey_id.removeprefix("SV_"),
        "lookup": lookup,
    }
    assert shown[0]["contactId"] == contact
    assert shown[0]["externalDataReference"] == "r1"


def test_links_come_by_the_hundred(own: Customer) -> None:
    """`nextPage` is a URL on the simulator's own address, and leads to the rest."""
    path = own.mailing_list()
    lookups = [own.add(path)[1] for _ in range(205)]
    distribution = own.distribute(path)
    url = f"{own.ready.url}/distributions/{distribution}/links?surveyId={own.ready.survey_id}"
    sizes, seen = [], []
    while url:
        assert url.startswith(f"{own.ready.url}/distributions/{distribution}/links?")
        page = own.api.get(url).json()["result"]
        sizes.append(len(page["elements"]))
        seen += [LINK.fullmatch(one["link"])["lookup"] for one in page["elements"]]  # type: ignore[index]
        url = page["nextPage"]
    assert sizes == [100, 100, 5]
    assert seen == lookups


@pytest.mark.parametrize(
    ("given", "expires"),
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05Z"),
        ("2030-01-02T03:04:05+02:00", "2030-01-02T01:04:05Z"),
        ("2030-01-02T03:04:05", "2030-01-02T10:04:05Z"),
        ("2030-07-02 03:04:05", "2030-07-02T09:04:05Z"),
        ("2030-07-02", "2030-07-02T06:00:00Z"),
    ],
)
def test_an_expiration_date_without_a_zone_is_mountain_time(
    own: Customer, given: str, expires: str
) -> None:
    """Winter and summer; with a zone it is what it says."""
    own.control("PUT", "clock", {"now": "2029-06-01T00:00:00Z"})
    distribution = own.distribute(own.mailing_list(), expirationDate=given)
    assert _read(own, distribution)["surveyLink"]["expirationDate"] == expires


def test_links_live_60_days_to_the_second(shared: Customer) -> None:
    """Unless an expiration date is given."""
    found = _read(shared, shared.distribute(shared.mailing_list()))
    created = datetime.fromisoformat(found["createdDate"])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert datetime.fromisoformat(found["surveyLink"]["expirationDate"]) == created + timedelta(
        days=60
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expirationDate": "soon"}, "Invalid expirationDate"),
        ({"expirationDate": "9999-12-31T23:59:59-12:00"}, "Invalid expirationDate"),
        ({"expirationDate": 1}, "Expected"),
        ({"surveyId": "SV_000000000000000"}, "Survey not found"),
        ({"mailingListId": "CG_000000000000000"}, "Mailing list not found"),
        ({"contactId": "CGC_000000000000000"}, "Contact not found"),
        ({"linkType": "Personal"}, "Invalid enum value"),
        ({"action": "CreateTransactionBatchDistribution"}, "transactionBatchId"),
        ({"action": "Send"}, "Invalid action parameter"),
        ({"message": {}}, "Unexpected json key provided: message"),
    ],
)
def test_a_distribution_is_strict(shared: Customer, change: dict[str, object], words: str) -> None:
    """Refused with 400, and no distribution is made."""
    path = shared.mailing_list()
    body = {
        "surveyId": shared.ready.survey_id,
        "linkType": "Individual",
        "description": "d",
        "action": "CreateDistribution",
        "mailingListId": path.rsplit("/", 1)[1],
    }
    status, error = shared.error("POST", "/distributions", body | change)
    assert status == 400
    assert words in error["errorMessage"]
    of_list = f"surveyId={shared.ready.survey_id}&mailingListId={body['mailingListId']}"
    assert shared.elements(f"/distributions?{of_list}") == []


def test_an_inactive_survey_takes_no_distribution(own: Customer) -> None:
    """It must be active when links are made."""
    own.control("PUT", "settings", {"survey_active": False})
    body = {
        "surveyId": own.ready.survey_id,
        "linkType": "Individual",
        "description": "d",
        "action": "CreateDistribution",
        "mailingListId": own.mailing_list().rsplit("/", 1)[1],
    }
    assert own.error("POST", "/distributions", body)[0] == 400


def test_a_distribution_for_one_contact_has_one_link(shared: Customer) -> None:
    """`contactId` takes a lookup id of that list; nobody else's link of it opens."""
    path = shared.mailing_list()
    other = shared.add(path)[1]
    lookup = shared.add(path)[1]
    links = shared.links(shared.distribute(path, contactId=lookup))
    assert [LINK.fullmatch(one)["lookup"] for one in links] == [lookup]  # type: ignore[index]
    assert shared.web.get(links[0].replace(lookup, other)).status_code == 404
    assert shared.web.get(links[0]).status_code == 200


def test_distributions_are_listed_by_survey_and_by_list(own: Customer) -> None:
    """`surveyId` is needed; the filter and the pages narrow the rest."""
    one, two = own.mailing_list(), own.mailing_list()
    made = [own.distribute(path) for path in (one, two, one)]
    all_of_it = f"/distributions?surveyId={own.ready.survey_id}"
    of_one = f"{all_of_it}&mailingListId={one.rsplit('/', 1)[1]}"
    assert own.error("GET", "/distributions")[0] == 400
    assert [found["id"] for found in own.elements(of_one)] == [made[0], made[2]]
    first = own.result("GET", f"{all_of_it}&pageSize=2")
    token = httpx.URL(first["nextPage"]).params["skipToken"]
    rest = own.elements(f"{all_of_it}&pageSize=2&skipToken={token}")
    assert [found["id"] for found in first["elements"] + rest] == made
    own.result("DELETE", f"/distributions/{made[0]}")
    assert [found["id"] for found in own.elements(of_one)] == [made[2]]
    assert own.error("GET", f"/distributions/{made[0]}?surveyId={own.ready.survey_id}") == (
        404,
        {"errorMessage": "Distribution not found.", "errorCode": "GED_3"},
    )


def test_history_follows_a_link_from_pending_to_finished(own: Customer) -> None:
    """Session, moments, response; the counts of the distribution go along."""
    path = own.mailing_list()
    contact, lookup = own.add(path)
    distribution = own.distribute(path)
    own.add(path)
    link = own.links(distribution)[0]

    def told() -> dict[str, Any]:
        found: dict[str, Any] = own.elements(f"/distributions/{distribution}/history")[0]
        return found

    assert told()["status"] == "Pending"
    session = own.open(link)
    started = told()
    assert started["status"] == "SurveyStarted"
    assert (started["contactId"], started["contactLookupId"]) == (contact, lookup)
    assert (started["surveySessionId"], started["surveyLink"]) == (session, link)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", started["responseStartedAt"])
    assert started["responseId"] is None
    own.send(link, session)
    finished = told()
    assert finished["status"] == "SurveyFinished"
    assert re.fullmatch(r"R_\w{15}", finished["responseId"])
    assert finished["responseCompletedAt"] >= finished["responseStartedAt"]
    stats = _read(own, distribution)["stats"]
    assert {name: count for name, count in stats.items() if count} == {"started": 1, "finished": 1}


def test_history_without_recipients_is_400(shared: Customer) -> None:
    """With the observed code."""
    status, error = shared.error(
        "GET", f"/distributions/{shared.distribute(shared.mailing_list())}/history"
    )
    assert (status, error["errorCode"]) == (400, "CP_TD_GER_NP")
