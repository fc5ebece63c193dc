"""Whether a response is of the link that it names, by all that it and the ledger say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from milepost.matching import SENTENCES, Through, judge
from milepost.model import Lane, LinkRecord, LinkState, Route
from milepost.store.links import Named
from milepost.upstream import SurveyResponse

SURVEY = "SV_000000000000001"
OTHER_SURVEY = "SV_000000000000002"
DISTRIBUTION = "EMD_000000000000003"
LOOKUP = "CGC_000000000000004"
OWN = Through(DISTRIBUTION, LOOKUP)
SECOND = timedelta(seconds=1)
START = datetime(2026, 11, 26, 12, tzinfo=UTC)

LINK = LinkRecord(
    id=UUID("01990000-0000-7000-8000-000000000000"),
    event_id="e1",
    milestone="landed",
    registrant="ann",
    state=LinkState.ISSUED,
    lane=Lane.DIRECT,
    route=Route.LIST,
    url=None,
    expires_at=START + timedelta(days=1),
    reused=False,
    reason=None,
    upstream_calls=1,
    created_at=START - timedelta(days=1),
    data_at=None,
    occurred_at=None,
    attempt=1,
    lease_until=None,
    waiting_until=None,
    issued_at=None,
    finished_at=None,
    clicked_at=None,
    revoked_at=None,
    data_due_at=None,
    delivered_at=None,
    opened_at=None,
    started_at=None,
    response_id=None,
    other_url=None,
)


def named(route: Route = Route.LIST, survey_id: str = SURVEY, **changes: Any) -> Named:
    """A link of `ann`, issued."""
    personal = f"http://brand.test/SE?Q_DL={DISTRIBUTION}_{survey_id[3:]}_{LOOKUP}&Q_CHL=gl"
    plain = f"http://brand.test/jfe/form/{survey_id}?milepost_ref=r"
    link = msgspec.structs.replace(LINK, route=route, **changes)
    url = plain if route is Route.ANONYMOUS else personal
    return Named(link=link, route=route, survey_id=survey_id, url=url)


def response(**changes: Any) -> SurveyResponse:
    """A response that came by a personal link of `ann`'s; what is None is left out."""
    values = {
        "milepost_ref": "r",
        "distributionChannel": "gl",
        "externalDataReference": "ann",
        "startDate": "2026-11-26T12:00:00Z",
    }
    return SurveyResponse({name: v for name, v in (values | changes).items() if v is not None})


PLAIN: dict[str, Any] = {"distributionChannel": "anonymous", "externalDataReference": None}


@pytest.mark.parametrize("route", [Route.LIST, Route.TRANSACTION, Route.STEPWISE])
@pytest.mark.parametrize(
    ("told", "link", "through", "expected"),
    [
        ({}, {}, OWN, ("true", None)),
        ({}, {}, None, ("true", "unconfirmed")),
        # Where the survey makes its responses anonymous, they do not say whose they are.
        ({"externalDataReference": None}, {}, OWN, ("true", None)),
        ({"externalDataReference": "", "distributionChannel": None}, {}, OWN, ("true", None)),
        # A customer can write the channel as well; whose contact it was, they cannot.
        ({"distributionChannel": "anonymous"}, {}, OWN, ("true", None)),
        ({"startDate": "2026-11-28T12:00:00Z"}, {}, OWN, ("true", "after-end")),
        ({}, {"revoked_at": START + SECOND}, OWN, ("true", None)),
        ({}, {"revoked_at": START - SECOND}, OWN, ("foreign", "revoked")),
        ({"startDate": None}, {"revoked_at": START + SECOND}, OWN, ("foreign", "revoked")),
        ({}, {"survey_id": OTHER_SURVEY}, None, ("foreign", "other-survey")),
        ({}, {"state": LinkState.UNKNOWN}, None, ("foreign", "not-issued")),
        ({}, {"state": LinkState.SUPPRESSED}, None, ("foreign", "not-issued")),
        ({"externalDataReference": "ben"}, {}, None, ("foreign", "other-registrant")),
        (PLAIN, {}, None, ("foreign", "plain-link")),
        ({}, {}, Through(DISTRIBUTION, "CGC_000000000000009"), ("foreign", "other-link")),
        ({}, {}, Through("EMD_000000000000009", LOOKUP), ("foreign", "other-link")),
        ({}, {}, Through(DISTRIBUTION, None), ("foreign", "other-link")),
    ],
)
def test_what_names_a_personal_link_is_held_against_it(
    route: Route,
    told: dict[str, Any],
    link: dict[str, Any],
    through: Through | None,
    expected: tuple[str, str | None],
) -> None:
    """Survey, state, revocation, whose contact it was, and the link that history tells."""
    assert expected == judge(
        SURVEY, response(**told), is_signed=True, named=named(route, **link), through=through
    )


@pytest.mark.parametrize(
    ("told", "link", "through", "expected"),
    [
        (PLAIN, {}, None, ("true", None)),
        (PLAIN | {"distributionChannel": "qrcode"}, {}, None, ("true", None)),
        (PLAIN | {"startDate": "2026-11-28T12:00:00Z"}, {}, None, ("true", "after-end")),
        (PLAIN | {"startDate": "yesterday"}, {}, None, ("true", None)),
        (PLAIN, {"revoked_at": START}, None, ("foreign", "revoked")),
        (PLAIN, {"survey_id": OTHER_SURVEY}, None, ("foreign", "other-survey")),
        ({}, {}, None, ("foreign", "personal-link")),
        ({"distributionChannel": None}, {}, None, ("foreign", "personal-link")),
        ({"externalDataReference": None}, {}, None, ("foreign", "personal-link")),
        (PLAIN, {}, OWN, ("foreign", "personal-link")),
    ],
)
def test_what_names_a_plain_link_came_by_no_personal_one(
    told: dict[str, Any],
    link: dict[str, Any],
    through: Through | None,
    expected: tuple[str, str | None],
) -> None:
    """No contact is behind it, and no history tells of it."""
    assert expected == judge(
        SURVEY,
        response(**told),
        is_signed=True,
        named=named(Route.ANONYMOUS, **link),
        through=through,
    )


@pytest.mark.parametrize(
    ("told", "is_signed", "expected"),
    [
        ({"milepost_ref": None}, False, ("without-reference", "no-reference")),
        ({"milepost_ref": ""}, False, ("without-reference", "no-reference")),
        ({"milepost_ref": ["r"]}, False, ("without-reference", "no-reference")),
        ({}, False, ("forged", "not-signed")),
        ({}, True, ("foreign", "no-link")),
    ],
)
def test_what_names_no_link_is_told_apart(
    *, told: dict[str, Any], is_signed: bool, expected: tuple[str, str]
) -> None:
    """Nothing said, something made up, and something that the ledger does not have."""
    assert expected == judge(SURVEY, response(**told), is_signed=is_signed, named=None)


def test_every_rule_has_a_sentence() -> None:
    """A person is told what a rule means."""
    assert all(sentence.endswith(".") for sentence in SENTENCES.values())
