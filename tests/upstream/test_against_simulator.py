"""The client and the simulator, which share no type, understand each other over a real socket."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from milepost.personal_link import parse
from milepost.simulator import Config, Ready, running
from milepost.upstream import (
    ContactFields,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    UnknownOutcome,
    Upstream,
    counting,
)

PROBE = ContactFields(email="probe@example.com", ref="probe")
ADA = ContactFields(
    first_name="Ada",
    last_name="Lovelace",
    email="ada@example.com",
    ref="r-1",
    language="DE",
    private_embedded_data={"venue": "Halle 7"},
)


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """An account of its own for each test, without limits."""
    config = Config(limits="none", declared_fields=("venue", "milepost_ref"))
    with running(config) as ready:
        yield ready


@pytest.fixture
async def upstream(simulator: Ready) -> AsyncIterator[Upstream]:
    """A client of that account."""
    async with Upstream(simulator.url, "simulator", deadline=2) as client:
        yield client


async def fault(simulator: Ready, kind: str, call_class: str, moment: str = "after") -> None:
    """Let the next call of a class go wrong."""
    body = {"kind": kind, "call_class": call_class, "moment": moment, "times": 1}
    request = urllib.request.Request(  # noqa: S310 -- the simulator's own http address
        simulator.url.removesuffix("/API/v3") + "/control/faults",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    await asyncio.to_thread(lambda: urllib.request.urlopen(request).close())  # noqa: S310 -- as above


async def test_the_account_says_who_and_where_it_is(simulator: Ready, upstream: Upstream) -> None:
    """One directory, one active survey with its declared fields."""
    account = await upstream.whoami()
    (directory,) = await upstream.directories()
    survey = await upstream.survey_definition(simulator.survey_id)
    assert account.user_id
    assert (directory.directory_id, directory.is_default) == (simulator.directory_id, True)
    assert directory.dedup_criteria == {"email"}
    assert survey.active is True
    assert survey.fields == {"venue", "milepost_ref"}


async def test_a_link_takes_one_call_once_its_pool_is_made(
    simulator: Ready, upstream: Upstream
) -> None:
    """A built link of a contact who came later is the very one that the platform lists."""
    directory, survey = simulator.directory_id, simulator.survey_id
    slot = await upstream.create_mailing_list(directory, "milepost slot 1")
    await upstream.add_list_contact(directory, slot, PROBE)
    expires = datetime.now(UTC) + timedelta(days=60)
    distribution = await upstream.create_distribution(survey, slot, "milepost", expires)
    (listed,) = [each async for each in upstream.distribution_links(distribution, survey)]
    template = parse(listed.link).template()

    with counting() as calls:
        added = await upstream.add_list_contact(directory, slot, ADA)
        built = template.url(added.lookup_id)
    assert calls.count == 1

    links = {
        each.contact_id: each async for each in upstream.distribution_links(distribution, survey)
    }
    assert links[added.contact_id].link == built
    assert links[added.contact_id].expires_at == expires.replace(microsecond=0)
    history = {each.lookup_id: each async for each in upstream.history(distribution)}
    assert history[added.lookup_id].response_id is None
    (found,) = [each async for each in upstream.distributions(survey)]
    assert (found.distribution_id, found.list_id) == (distribution, slot)


async def test_contacts_are_found_read_and_changed(simulator: Ready, upstream: Upstream) -> None:
    """The same person in two lists is one contact with two lookup ids."""
    directory = simulator.directory_id
    home, slot = [await upstream.create_mailing_list(directory, f"milepost {n}") for n in "ab"]
    first = await upstream.add_list_contact(directory, home, ADA)
    second = await upstream.add_list_contact(directory, slot, ADA)
    assert await upstream.add_list_contact(directory, slot, ADA) == second
    assert first.contact_id == second.contact_id

    contact = await upstream.get_contact(directory, first.contact_id)
    assert contact.memberships == {home: first.lookup_id, slot: second.lookup_id}
    hits = [each async for each in upstream.search_contacts(directory, ref="r-1")]
    assert [hit.contact_id for hit in hits] == [first.contact_id]
    assert [each async for each in upstream.search_contacts(directory, ref="nobody")] == []

    await upstream.update_list_contact(directory, slot, first.contact_id, ContactFields(ref="r-2"))
    (changed,) = [each async for each in upstream.list_contacts(directory, slot)]
    assert (changed.lookup_id, changed.ref) == (second.lookup_id, "r-2")
    await upstream.delete_mailing_list(directory, slot)
    assert [each.list_id async for each in upstream.mailing_lists(directory)] == [home]


async def test_long_lists_are_read_to_their_end(simulator: Ready, upstream: Upstream) -> None:
    """Every contact once, over three pages."""
    directory = simulator.directory_id
    home = await upstream.create_mailing_list(directory, "milepost home")
    people = [ContactFields(email=f"p{n}@example.com", ref=f"r-{n}") for n in range(250)]
    added = await asyncio.gather(
        *(upstream.add_list_contact(directory, home, person) for person in people)
    )
    with counting() as calls:
        read = [each async for each in upstream.list_contacts(directory, home)]
    assert calls.count == 3
    assert len(read) == 250
    assert {each.lookup_id for each in read} == {each.lookup_id for each in added}
    assert {each.ref for each in read} == {person.ref for person in people}


async def test_a_distribution_on_an_empty_list_has_no_history(
    simulator: Ready, upstream: Upstream
) -> None:
    """Its refusal is read as an empty history."""
    slot = await upstream.create_mailing_list(simulator.directory_id, "milepost empty")
    expires = datetime.now(UTC) + timedelta(days=1)
    made = await upstream.create_distribution(simulator.survey_id, slot, "milepost", expires)
    assert [each async for each in upstream.history(made)] == []


@pytest.mark.parametrize("kind", ["status", "timeout", "reset", "html", "truncated"])
async def test_an_accepted_add_whose_answer_is_lost_is_found_by_asking(
    kind: str, simulator: Ready, upstream: Upstream
) -> None:
    """The outcome is unknown, the call is not repeated, and the contact's search tells it."""
    directory = simulator.directory_id
    slot = await upstream.create_mailing_list(directory, "milepost slot")
    await fault(simulator, kind, "list_contacts")
    with counting() as calls, pytest.raises(UnknownOutcome):
        await upstream.add_list_contact(directory, slot, ADA)
    assert calls.count == 1
    (hit,) = [each async for each in upstream.search_contacts(directory, ref="r-1")]
    contact = await upstream.get_contact(directory, hit.contact_id)
    assert contact.memberships.keys() == {slot}


async def test_a_read_survives_a_passing_failure(simulator: Ready, upstream: Upstream) -> None:
    """One failed try is not noticed but in the count."""
    await fault(simulator, "status", "account", "before")
    with counting() as calls:
        await upstream.whoami()
    assert calls.count == 2


async def test_refusals_are_definite(simulator: Ready, upstream: Upstream) -> None:
    """A list that is gone, a wrong token, an account that is full up."""
    with pytest.raises(NotFound):
        await upstream.add_list_contact(simulator.directory_id, "CG_000000000000000", ADA)
    moment = datetime.now(UTC) + timedelta(days=1)
    with pytest.raises(Refused):
        await upstream.create_distribution(simulator.survey_id, "CG_000000000000000", "x", moment)
    async with Upstream(simulator.url, "wrong", deadline=2) as stranger:
        with pytest.raises((Unauthorized, Forbidden)):
            await stranger.whoami()
    with running(Config(limits={"account": 1})) as busy:
        async with Upstream(busy.url, "simulator", deadline=2) as client:
            await client.whoami()
            with pytest.raises(Throttled):
                await client.whoami()
