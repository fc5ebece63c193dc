"""Our client at a simulator that fails: what it is told, and how the truth is found out."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.conftest import Place, Wire

from milepost.simulator import Config, running
from milepost.upstream import (
    ClientCredentials,
    Forbidden,
    Throttled,
    Token,
    Unauthorized,
    UnknownOutcome,
    Upstream,
    counting,
)


@pytest.mark.parametrize("kind", ["status", "timeout", "reset", "html", "truncated", "empty"])
async def test_an_accepted_add_whose_answer_is_lost_is_found_by_asking(
    kind: str, simulated: Place, wire: Wire
) -> None:
    """The outcome is unknown, the call is not repeated, and the contact's search tells it."""
    upstream, directory = simulated.upstream, simulated.directory
    list_id = await simulated.mailing_list()
    ada = simulated.person("ada")
    await wire.fault(kind, "list_contacts")
    with counting() as calls, pytest.raises(UnknownOutcome):
        await upstream.add_list_contact(directory, list_id, ada)
    assert calls.count == 1
    assert ada.ref
    (hit,) = [each async for each in upstream.search_contacts(directory, ref=ada.ref)]
    contact = await upstream.get_contact(directory, hit.contact_id)
    assert contact.memberships.keys() == {list_id}


async def test_accepted_transactions_whose_answer_is_lost_are_found_by_asking(
    simulated: Place, wire: Wire
) -> None:
    """The contact's transactions tell it."""
    contact_id, first = await simulated.transaction("ada")
    (list_id,) = (await simulated.upstream.get_contact(simulated.directory, contact_id)).memberships
    await wire.fault("reset", "transactions")
    with pytest.raises(UnknownOutcome):
        await simulated.upstream.create_transactions(
            simulated.directory, {"one": simulated.visit(contact_id, list_id)}
        )
    found = simulated.upstream.contact_transactions(simulated.directory, contact_id)
    others = [each.transaction_id async for each in found if each.transaction_id != first]
    assert len(others) == 1


async def test_an_accepted_addition_to_a_batch_whose_answer_is_lost_is_found_by_asking(
    simulated: Place, wire: Wire
) -> None:
    """The batch tells it."""
    _, made = await simulated.transaction("ada")
    batch = await simulated.batch()
    await wire.fault("timeout", "batch_transactions")
    with pytest.raises(UnknownOutcome):
        await simulated.upstream.add_to_batch(simulated.directory, batch, [made])
    held = simulated.upstream.batch_transactions(simulated.directory, batch)
    assert [each async for each in held] == [made]


async def test_a_read_survives_a_passing_failure(upstream: Upstream, wire: Wire) -> None:
    """One failed try is not noticed but in the count."""
    await wire.fault("status", "account", "before")
    with counting() as calls:
        await upstream.whoami()
    assert calls.count == 2


async def test_long_lists_are_read_to_their_end(simulated: Place) -> None:
    """Every contact once, over three pages."""
    upstream, directory = simulated.upstream, simulated.directory
    home = await simulated.mailing_list()
    people = [simulated.person(f"p{number}") for number in range(250)]
    added = await asyncio.gather(
        *(upstream.add_list_contact(directory, home, person) for person in people)
    )
    with counting() as calls:
        read = [each async for each in upstream.list_contacts(directory, home)]
    assert calls.count == 3
    assert len(read) == 250
    assert {each.lookup_id for each in read} == {each.lookup_id for each in added}
    assert {each.ref for each in read} == {person.ref for person in people}


async def test_a_long_search_is_read_to_its_end(simulated: Place) -> None:
    """By the token beside its elements, which stand on three pages."""
    upstream, directory = simulated.upstream, simulated.directory
    home = await simulated.mailing_list()
    for number in range(201):
        person = simulated.person(f"p{number}", ref="the same")
        await upstream.add_list_contact(directory, home, person)
    found = [each async for each in upstream.search_contacts(directory, ref="the same")]
    assert len({each.contact_id for each in found}) == 201


async def test_the_same_person_is_one_contact_with_a_place_in_each_list(simulated: Place) -> None:
    """Where the directory merges: one contact, two lookup ids, and the same again for a repeat."""
    home, slot = [await simulated.mailing_list(name) for name in ("home", "slot")]
    first = await simulated.add(home, "ada")
    second = await simulated.add(slot, "ada")
    assert await simulated.add(slot, "ada") == second
    assert first.contact_id == second.contact_id
    contact = await simulated.upstream.get_contact(simulated.directory, first.contact_id)
    assert contact.memberships == {home: first.lookup_id, slot: second.lookup_id}


async def test_a_distribution_on_an_empty_list_has_no_history(simulated: Place) -> None:
    """Its refusal is read as an empty history."""
    made = await simulated.distribution(await simulated.mailing_list())
    assert [each async for each in simulated.upstream.history(made)] == []


async def test_who_opted_out_is_read_with_their_ref(simulated: Place, wire: Wire) -> None:
    """And seen on the contact, in the directory and in each list."""
    upstream, directory = simulated.upstream, simulated.directory
    list_id = await simulated.mailing_list()
    ada = await simulated.add(list_id, "ada")
    await simulated.add(list_id, "grace")
    path = f"/directories/{directory}/contacts/{ada.contact_id}"
    await wire.answer("PUT", path, {"unsubscribed": True})
    (page,) = [each async for each in upstream.opted_out_pages(directory)]
    (gone,) = page.elements
    assert (gone.contact_id, gone.ref) == (ada.contact_id, simulated.person("ada").ref)
    assert (await upstream.get_contact(directory, ada.contact_id)).unsubscribed is True
    member = await upstream.get_list_contact(directory, list_id, ada.contact_id)
    assert member.unsubscribed is True


async def test_a_wrong_token_opens_nothing(wire: Wire) -> None:
    """Neither as a token nor as client credentials, nor one whose scopes do not reach."""
    async with Upstream(wire.ready.url, Token("wrong"), deadline=2) as stranger:
        with pytest.raises((Unauthorized, Forbidden)):
            await stranger.whoami()
    wrong = ClientCredentials("simulator", "wrong")
    async with Upstream(wire.ready.url, wrong, deadline=2) as stranger:
        with pytest.raises((Unauthorized, Forbidden)):
            await stranger.whoami()
    little = ClientCredentials("simulator", "simulator", scopes=("read:directories",))
    async with Upstream(wire.ready.url, little, deadline=2) as client:
        assert await client.directories()
        with pytest.raises(Forbidden):
            await client.create_mailing_list(wire.ready.directory_id, "not ours to make")


async def test_client_credentials_open_what_a_token_opens(wire: Wire) -> None:
    """With the scopes that Milepost asks for, a link can be made."""
    credentials = ClientCredentials("simulator", "simulator")
    async with Upstream(wire.ready.url, credentials, deadline=2) as upstream:
        place = Place(upstream, wire.ready.directory_id, wire.ready.survey_id, is_live=False)
        list_id = await place.mailing_list()
        added = await place.add(list_id, "ada")
        distribution = await place.distribution(list_id)
        links = upstream.distribution_links(distribution, place.survey)
        assert [each.contact_id async for each in links] == [added.contact_id]
        await place.transaction("grace")
        await place.clear()


async def test_too_many_calls_are_refused_as_such() -> None:
    """A 429 is a refusal: nothing was done."""
    with running(Config(limits={"account": 1})) as busy:
        async with Upstream(busy.url, Token("simulator"), deadline=2) as client:
            await client.whoami()
            with pytest.raises(Throttled):
                await client.whoami()
