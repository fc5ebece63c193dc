"""Every verb of our client, and what it leaves at the platform: the simulator, or a live account.

What is asserted here is what the routes and jobs rely on. What an account may answer either way is
not: that is the doctor's to find out.
"""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest
from tests.contract.conftest import FIELDS, Place, in_a_day

from milepost.personal_link import parse
from milepost.upstream import (
    Forbidden,
    NotFound,
    Refused,
    Upstream,
    counting,
)

NOBODY = "000000000000000"


def test_every_verb_is_under_contract() -> None:
    """A verb that is added to the client is used by these tests, or this says which is not."""
    files = (Path(__file__), Path(__file__).with_name("conftest.py"))
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    verbs = [name for name, _ in inspect.getmembers(Upstream, inspect.isfunction) if name[0] != "_"]
    assert [name for name in verbs if f"upstream.{name}(" not in source] == ["aclose"]


async def test_the_account_says_who_and_where_it_is(place: Place) -> None:
    """One default directory with its criteria, and a survey that takes responses."""
    account = await place.upstream.whoami()
    directories = {each.directory_id: each for each in await place.upstream.directories()}
    surveys = {each.survey_id: each async for each in place.upstream.surveys()}
    definition = await place.upstream.survey_definition(place.survey)
    assert account.user_id
    assert account.brand_id
    assert account.datacenter
    assert [each.is_default for each in directories.values()].count(True) == 1
    assert directories[place.directory].dedup_criteria
    assert surveys[place.survey].active is True
    assert definition.active is True
    assert definition.base_url
    if not place.is_live:
        assert definition.fields == set(FIELDS)


async def test_a_mailing_list_is_made_read_listed_and_deleted(place: Place) -> None:
    """Under its name, until it is gone."""
    made = await place.mailing_list()
    read = await place.upstream.mailing_list(place.directory, made)
    listed = [each async for each in place.upstream.mailing_lists(place.directory)]
    assert (read.list_id, read.name) == (made, place.name("list"))
    assert read in listed
    await place.upstream.delete_mailing_list(place.directory, made)
    with pytest.raises(NotFound):
        await place.upstream.mailing_list(place.directory, made)


async def test_a_contact_is_put_into_a_list_changed_and_taken_out(place: Place) -> None:
    """What was not sent stays; the directory keeps them when the list does not."""
    upstream, directory = place.upstream, place.directory
    list_id = await place.mailing_list()
    ada = place.person("ada", language="DE", embedded_data={"tier": "gold"})
    added = await place.add(list_id, "ada", language="DE", embedded_data={"tier": "gold"})
    read = await upstream.get_list_contact(directory, list_id, added.contact_id)
    assert (read.contact_id, read.lookup_id) == (added.contact_id, added.lookup_id)
    assert (read.email, read.ref, read.language) == (ada.email, ada.ref, "DE")
    assert (read.unsubscribed, read.list_unsubscribed) == (False, False)
    (listed,) = [
        each async for each in upstream.list_contacts(directory, list_id, include_embedded=True)
    ]
    assert (listed.lookup_id, listed.embedded_data) == (added.lookup_id, {"tier": "gold"})

    change = place.person("changed", private_embedded_data={"venue": "Halle 7"})
    await upstream.update_list_contact(directory, list_id, added.contact_id, change)
    (changed,) = [each async for each in upstream.list_contacts(directory, list_id)]
    assert (changed.lookup_id, changed.ref) == (added.lookup_id, change.ref)
    assert changed.language == "DE"

    await upstream.remove_list_contact(directory, list_id, added.contact_id)
    assert [each async for each in upstream.list_contacts(directory, list_id)] == []
    with pytest.raises(NotFound):
        await upstream.get_list_contact(directory, list_id, added.contact_id)
    contact = await upstream.get_contact(directory, added.contact_id)
    assert (contact.ref, contact.memberships) == (change.ref, {})


async def test_a_contact_knows_the_lists_they_are_in(place: Place) -> None:
    """By which an add whose answer was lost is found again."""
    list_id = await place.mailing_list()
    added = await place.add(list_id, "ada")
    contact = await place.upstream.get_contact(place.directory, added.contact_id)
    assert contact.memberships == {list_id: added.lookup_id}


async def test_a_directory_contact_is_made_found_changed_and_deleted(place: Place) -> None:
    """In no list; a search by ref finds nobody else."""
    upstream, directory = place.upstream, place.directory
    made = await upstream.create_contact(directory, place.person("grace"))
    place.undo(upstream.delete_contact, directory, made)
    contact = await upstream.get_contact(directory, made)
    assert contact.memberships == {}
    assert (contact.email, contact.unsubscribed) == (place.person("grace").email, False)

    ref = place.person("grace").ref
    assert ref
    hits = await place.found(lambda: upstream.search_contacts(directory, ref=ref))
    assert [(hit.contact_id, hit.ref) for hit in hits] == [(made, ref)]
    nobody = upstream.search_contacts(directory, ref=place.name("nobody"))
    assert [each async for each in nobody] == []

    change = place.person("grace", embedded_data={"tier": "gold"})
    await upstream.update_contact(directory, made, change)
    assert (await upstream.get_contact(directory, made)).embedded_data == {"tier": "gold"}
    await upstream.delete_contact(directory, made)
    with pytest.raises(NotFound):
        await upstream.get_contact(directory, made)


async def test_who_opted_out_can_be_read(place: Place) -> None:
    """The first of them; how many there are is the account's affair."""
    async for page in place.upstream.opted_out_pages(place.directory):
        assert all(contact.contact_id for contact in page.elements)
        break


async def test_many_contacts_are_imported_into_a_list(place: Place) -> None:
    """In the background; their lookup ids are paged back afterwards."""
    upstream, directory = place.upstream, place.directory
    list_id = await place.mailing_list()
    people = [place.person(f"p{number}") for number in range(3)]
    started = await upstream.start_import(directory, list_id, people)
    progress = await upstream.import_progress(directory, list_id, started)
    for _ in range(40):
        if progress.done:
            break
        await asyncio.sleep(3 if place.is_live else 0.05)  # there is no event to wait for
        progress = await upstream.import_progress(directory, list_id, started)
    (page,) = [each async for each in upstream.list_contact_pages(directory, list_id)]
    members = page.elements
    for member in members:
        place.undo(upstream.delete_contact, directory, member.contact_id)
    assert (progress.percent_complete, progress.failed) == (100, 0)
    assert progress.added + progress.updated == 3
    assert {member.ref for member in members} == {person.ref for person in people}


async def test_transactions_are_made_together_and_refused_alone(place: Place) -> None:
    """Under the keys that we choose; one of somebody who is not in the list spoils no other."""
    upstream, directory = place.upstream, place.directory
    list_id = await place.mailing_list()
    added = await place.add(list_id, "ada")
    good = place.visit(added.contact_id, list_id, venue="Halle 7")
    lost = place.visit(f"CID_{NOBODY}", list_id)
    wanted = {"first": good, "second": good, "lost": lost}
    answer = await upstream.create_transactions(directory, wanted)
    for made in answer.created.values():
        place.undo(upstream.delete_transaction, directory, made)
    assert (answer.created.keys(), answer.refused.keys()) == ({"first", "second"}, {"lost"})
    assert answer.untold == frozenset()

    read = await upstream.transaction(directory, answer.created["first"])
    assert read.transaction_id == answer.created["first"]
    assert (read.contact_id, read.list_id, read.at) == (added.contact_id, list_id, good.at)
    assert read.data == {"venue": "Halle 7"}
    found = await place.found(lambda: upstream.contact_transactions(directory, added.contact_id))
    assert {each.transaction_id for each in found} == set(answer.created.values())


async def test_a_deleted_transaction_is_gone(place: Place) -> None:
    """Also for whoever asks the contact."""
    upstream, directory = place.upstream, place.directory
    contact_id, made = await place.transaction("ada")
    await upstream.delete_transaction(directory, made)
    with pytest.raises(NotFound):
        await upstream.transaction(directory, made)
    assert [each async for each in upstream.contact_transactions(directory, contact_id)] == []


async def test_a_batch_begins_empty_or_not_and_takes_more(place: Place) -> None:
    """It holds what it was given; deleted, it is gone."""
    upstream, directory = place.upstream, place.directory
    _, first = await place.transaction("ada")
    _, second = await place.transaction("grace")
    empty = await place.batch()
    full = await place.batch(first)
    await upstream.add_to_batch(directory, full, [second])
    await upstream.add_to_batch(directory, empty, [first])
    held = await place.found(lambda: upstream.batch_transactions(directory, full))
    assert sorted(held) == sorted([first, second])
    assert await place.found(lambda: upstream.batch_transactions(directory, empty)) == [first]
    (page,) = [each async for each in upstream.batch_pages(directory, empty)]
    assert [each.transaction_id for each in page.elements] == [first]
    known = [each.batch_id async for each in upstream.batches(directory)]
    assert {empty, full} <= {*known}
    for batch in (empty, full):
        await upstream.delete_batch(directory, batch)
    with pytest.raises(NotFound):
        _ = [each async for each in upstream.batch_transactions(directory, full)]


async def test_a_distribution_on_a_list_is_made_counted_listed_and_deleted(place: Place) -> None:
    """Nobody is sent anything."""
    upstream = place.upstream
    list_id = await place.mailing_list()
    await place.add(list_id, "probe")
    made = await place.distribution(list_id)
    read = await upstream.distribution(made, place.survey)
    assert (read.distribution_id, read.list_id) == (made, list_id)
    assert (read.stats.sent, read.stats.started, read.stats.finished) == (0, 0, 0)
    (listed,) = [
        each async for each in upstream.distributions(place.survey) if each.distribution_id == made
    ]
    assert listed.list_id == list_id
    await upstream.delete_distribution(made)
    with pytest.raises(NotFound):
        await upstream.distribution(made, place.survey)


async def test_a_link_takes_one_call_once_its_pool_is_made(place: Place) -> None:
    """A built link of a contact who came later is the very one that the platform lists."""
    upstream = place.upstream
    list_id = await place.mailing_list("slot")
    probe = await place.add(list_id, "probe")
    expires = in_a_day()
    distribution = await place.distribution(list_id, expires_at=expires)
    (listed,) = await place.found(lambda: upstream.distribution_links(distribution, place.survey))
    assert listed.contact_id == probe.contact_id
    template = parse(listed.link).template()

    with counting() as calls:
        added = await place.add(list_id, "ada")
        built = template.url(added.lookup_id)
    assert calls.count == 1

    links = {
        each.contact_id: each
        async for each in upstream.distribution_links(distribution, place.survey)
    }
    assert links[added.contact_id].link == built
    assert links[added.contact_id].expires_at == expires
    history = {each.lookup_id: each async for each in upstream.history(distribution)}
    assert history[added.lookup_id].response_id is None
    assert history[added.lookup_id].link == built
    pages = [each async for each in upstream.history_pages(distribution)]
    assert [each for page in pages for each in page.elements] == list(history.values())
    assert pages[-1].cursor is None


async def test_a_distribution_for_one_contact_has_their_link_alone(place: Place) -> None:
    """By the lookup id; the others of the list are left out."""
    list_id = await place.mailing_list()
    ada = await place.add(list_id, "ada")
    await place.add(list_id, "grace")
    made = await place.distribution(list_id, contact_id=ada.lookup_id)
    links = await place.found(lambda: place.upstream.distribution_links(made, place.survey))
    assert [each.contact_id for each in links] == [ada.contact_id]
    assert parse(links[0].link).lookup_id == ada.lookup_id


async def test_a_distribution_on_a_batch_has_a_link_for_each_transaction(place: Place) -> None:
    """The link's last part is the transaction; one that came later is built like the first."""
    upstream, directory = place.upstream, place.directory
    contact_id, first = await place.transaction("ada")
    _, second = await place.transaction("grace")
    batch = await place.batch(first)
    made = await upstream.create_batch_distribution(
        place.survey, batch, place.name("batch distribution"), in_a_day()
    )
    place.undo(upstream.delete_distribution, made)
    (listed,) = await place.found(lambda: upstream.distribution_links(made, place.survey))
    assert (listed.contact_id, listed.transaction_id) == (contact_id, first)
    template = parse(listed.link).template()
    assert template.url(first) == listed.link

    await upstream.add_to_batch(directory, batch, [second])
    links = {
        each.transaction_id: each async for each in upstream.distribution_links(made, place.survey)
    }
    assert links[second].link == template.url(second)


async def test_a_subscription_is_made_listed_and_ended(place: Place) -> None:
    """Of a brand administrator; anybody else is refused (documented)."""
    upstream = place.upstream
    topics, url = f"surveyengine.completedResponse.{place.survey}", "https://milepost.example.com/"
    try:
        made = await upstream.create_subscription(topics, url, "a shared key")
    except Forbidden:
        assert place.is_live
        return
    place.undo(upstream.delete_subscription, made)
    listed = {each.subscription_id: each async for each in upstream.subscriptions()}
    assert listed[made].publication_url == url
    assert topics in listed[made].topics


async def test_what_is_not_there_is_refused(place: Place) -> None:
    """Definitely, so that nothing has to be found out afterwards."""
    upstream, directory = place.upstream, place.directory
    with pytest.raises(NotFound):
        await upstream.add_list_contact(directory, f"CG_{NOBODY}", place.person("ada"))
    with pytest.raises(Refused):
        await upstream.create_distribution(place.survey, f"CG_{NOBODY}", "x", in_a_day())
    with pytest.raises(NotFound):
        await upstream.distribution(f"EMD_{NOBODY}", place.survey)
    with pytest.raises(NotFound):
        await upstream.response(place.survey, f"R_{NOBODY}")
    with pytest.raises(NotFound):
        await upstream.delete_subscription(f"SUB_{NOBODY}")
