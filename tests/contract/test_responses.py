"""A link that is opened and answered, as our client sees it afterwards."""

from __future__ import annotations

import re

from tests.contract.conftest import Place, Wire, in_a_day


async def answer(wire: Wire, link: str) -> None:
    """Open a link and send its form off, as a browser would."""
    page = await wire.web.get(link)
    (session,) = re.findall(r'name="session" value="(FS_\w{15})"', page.text)
    sent = await wire.web.post(link, data={"session": session, "QID1": "5"})
    assert 'data-state="thanks"' in sent.text


async def test_a_response_is_found_by_its_link_and_holds_the_data(
    simulated: Place, wire: Wire
) -> None:
    """History names it, the distribution counts it, its values are what the add sent."""
    upstream = simulated.upstream
    list_id = await simulated.mailing_list()
    await simulated.add(list_id, "probe")
    distribution = await simulated.distribution(list_id)
    ada = await simulated.add(list_id, "ada", private_embedded_data={"venue": "Halle 7"})
    links = upstream.distribution_links(distribution, simulated.survey)
    (link,) = [each.link async for each in links if each.contact_id == ada.contact_id]
    await answer(wire, link)

    (entry,) = [
        each async for each in upstream.history(distribution) if each.lookup_id == ada.lookup_id
    ]
    assert entry.status == "SurveyFinished"
    assert entry.response_id
    response = await upstream.response(simulated.survey, entry.response_id)
    assert response.values["venue"] == "Halle 7"
    stats = (await upstream.distribution(distribution, simulated.survey)).stats
    assert (stats.started, stats.finished) == (1, 1)


async def test_a_transaction_and_its_response_belong_together(simulated: Place, wire: Wire) -> None:
    """History names the transaction where it names the contact's place in a list otherwise."""
    upstream = simulated.upstream
    _, made = await simulated.transaction("ada")
    batch = await simulated.batch(made)
    distribution = await upstream.create_batch_distribution(
        simulated.survey, batch, simulated.name("batch"), in_a_day()
    )
    links = upstream.distribution_links(distribution, simulated.survey)
    (link,) = [each.link async for each in links]
    await answer(wire, link)
    (entry,) = [each async for each in upstream.history(distribution)]
    assert entry.lookup_id == made
    assert entry.response_id
    response = await upstream.response(simulated.survey, entry.response_id)
    assert response.values["venue"] == "ada"
