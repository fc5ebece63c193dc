"""What the client makes of real answers; collected only where the recordings are at hand.

The shapes in them that matter stand in the other tests as well, which run everywhere.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost.upstream import AddedContact, ContactFields, NotFound, Refused, Upstream

if TYPE_CHECKING:
    from conftest import Origin

DIRECTORY, LIST = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl"
SURVEY, DISTRIBUTION = "SV_yxgJYWKCmDogBXz", "EMD_SN74IhsDHkP3g6f"


def recording(recorded: Path, name: str) -> list[Any]:
    """The answers of one file."""
    read = json.loads((recorded / name).read_text(encoding="utf-8"))
    return read if isinstance(read, list) else [read]


def replay(origin: Origin, answer: object, status: int = 200) -> None:
    """Answer as was recorded."""
    origin.answers = [origin.raw(status, json.dumps(answer).encode())]


async def test_the_documented_add_is_read(
    origin: Origin, upstream: Upstream, recorded: Path
) -> None:
    """The example of the one call."""
    (example,) = recording(recorded, "create_contact_in_mailing_list_doc.json")
    replay(origin, example)
    added = await upstream.add_list_contact(DIRECTORY, LIST, ContactFields(ref="r"))
    assert added == AddedContact("CID_e25ZlqSlIr2GWpp", "CGC_e25ZlqSlIr2GWpp")


async def test_the_recorded_request_for_a_distribution_is_ours(
    origin: Origin, upstream: Upstream, recorded: Path
) -> None:
    """Given the same parts, the same body is sent."""
    (example,) = recording(recorded, "create_distribution_doc.json")
    request = example["request"]
    replay(origin, example["response"])
    made = await upstream.create_distribution(
        request["surveyId"],
        request["mailingListId"],
        request["description"],
        datetime.fromisoformat(request["expirationDate"]),
    )
    assert made == example["response"]["result"]["id"]
    assert origin.seen[0].json == request


@pytest.mark.parametrize(
    ("name", "lookup_id"),
    [
        ("history_2021_started.json", "MLRP_Ctau86KvYMkxZqM"),
        ("history_2023_pending.json", "CGC_84eTRcYZ0Oau98P"),
    ],
)
async def test_recorded_histories_are_read(
    name: str, lookup_id: str, origin: Origin, upstream: Upstream, recorded: Path
) -> None:
    """Of the years with old and with today's lookup ids."""
    replay(origin, recording(recorded, name)[0])
    (entry,) = [each async for each in upstream.history(DISTRIBUTION)]
    assert entry.lookup_id == lookup_id


async def test_recorded_links_and_an_empty_list_are_read(
    origin: Origin, upstream: Upstream, recorded: Path
) -> None:
    """Including those of 2019, which lack the transaction and the next page."""
    replay(origin, recording(recorded, "list_links_2021.json")[0])
    (link,) = [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)]
    assert link.expires_at == datetime(2021, 7, 31, 14, 58, tzinfo=UTC)
    replay(origin, recording(recorded, "list_distributions_empty_2020.json")[0])
    assert [each async for each in upstream.distributions(SURVEY)] == []
    made, missing, links = recording(recorded, "recorded_2019.json")
    replay(origin, made["response"])
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    made_id = await upstream.create_distribution(SURVEY, LIST, "x", moment)
    assert made_id == "EMD_kxzfaaCcGNSvXLj"
    replay(origin, links["response"])
    (old,) = [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)]
    assert old.contact_id == "MLRP_FQo7dggjOZ6m0Tm"
    replay(origin, missing["response"], missing["status"])
    with pytest.raises(NotFound) as caught:
        _ = [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)]
    assert caught.value.error_code == "GED_3"


async def test_recorded_cursors_are_followed_on_our_own_host(
    origin: Origin, upstream: Upstream, recorded: Path
) -> None:
    """The recorded next pages name another host and carry that proxy's parameters."""
    pages = recording(recorded, "list_links_pagination_2019.json")
    origin.answers = [
        *(origin.ok({"elements": [], "nextPage": page["nextPage"]}) for page in pages),
        origin.ok({"elements": [], "nextPage": None}),
    ]
    assert [each async for each in upstream.distribution_links(DISTRIBUTION, SURVEY)] == []
    path = f"/API/v3/distributions/{DISTRIBUTION}/links?surveyId={SURVEY}"
    cursors = ["MLRP_66o0t0jL5l3Ozjn", "MLRP_mKkKJ5WfvJcdFLs", "MLRP_R93XeKCmd2szL6o"]
    expected = [path, *(f"{path}&skipToken={cursor}" for cursor in cursors)]
    assert [seen.target for seen in origin.seen] == expected


async def test_recorded_errors_keep_their_facts(
    origin: Origin, upstream: Upstream, recorded: Path
) -> None:
    """Whatever half of the envelope each of them has."""
    for answer in recording(recorded, "errors_observed.json"):
        if "verbatim" in answer:
            origin.answers = [origin.raw(answer["status"], answer["verbatim"].encode())]
            note = json.loads(answer["verbatim"])["meta"]["error"]
        elif "meta" in answer:
            replay(origin, {"meta": answer["meta"]}, answer["status"])
            note = answer["meta"]["error"]
        else:
            continue
        with pytest.raises(Refused) as caught:
            await upstream.whoami()
        told = (caught.value.error_code, caught.value.upstream_message)
        assert told == (note.get("errorCode"), note["errorMessage"])
        assert note["errorMessage"] not in str(caught.value)
