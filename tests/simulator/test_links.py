"""The shapes of personal links: those that were seen, one that was not, and all of them open."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from milepost.simulator.links import read_q_dl

Customer = Any
State = Callable[[httpx.Response], str]

D, S, C = r"(?P<d>\w{15})", r"(?P<s>\w{15})", r"CGC_(?P<c>\w{15})"
SHAPES = {
    "2019": rf"/SE\?Q_DL={D}_{S}_{C}&Q_CHL=gl",
    "2020": rf"/jfe/form/SV_(?P=s)\?Q_DL=EMD_{D}_(?P=s)_{C}&Q_CHL=gl".replace("(?P=s)", S, 1),
    "2020-channel-first": rf"/jfe/form/SV_{S}\?Q_CHL=gl&Q_DL={D}_(?P=s)_{C}",
    "2023": rf"/jfe/form/SV_{S}\?Q_CHL=gl&Q_DL=EMD_{D}_(?P=s)_{C}&_g_=g",
    "2023-no-emd": rf"/jfe/form/SV_{S}\?Q_CHL=gl&Q_DL={D}_(?P=s)_{C}&_g_=g",
    "double-slash": rf"//jfe/form/SV_{S}\?Q_CHL=gl&Q_DL=EMD_{D}_(?P=s)_{C}&_g_=g",
    "unknown": rf"/survey/SV_{S}/{D}\.{C}",
}


@pytest.mark.parametrize("form", SHAPES)
def test_a_link_of_every_shape_is_listed_told_of_and_opens_once(
    own: Customer, state: State, form: str
) -> None:
    """It holds the same parts, and is answered and refused like any other."""
    own.control("PUT", "settings", {"facts": {"link_format": form}})
    path = own.mailing_list()
    lookup = own.add(path)[1]
    distribution = own.distribute(path)
    link = own.links(distribution)[0]
    parts = re.fullmatch(re.escape(own.ready.origin) + SHAPES[form], link)
    assert parts is not None, link
    assert parts.groupdict() == {
        "d": distribution.removeprefix("EMD_"),
        "s": own.ready.survey_id.removeprefix("SV_"),
        "c": lookup.removeprefix("CGC_"),
    }
    told = own.elements(f"/distributions/{distribution}/history")
    assert [entry["surveyLink"] for entry in told] == [link]
    own.answer(link)
    assert state(own.web.get(link)) == "taken"
    assert own.web.head(link).status_code == 410


def test_links_outlive_a_change_of_their_shape(own: Customer, state: State) -> None:
    """One that was given out opens, and is the same link as its other shapes: answered once."""
    path = own.mailing_list()
    own.add(path)
    distribution = own.distribute(path)
    links = [own.links(distribution)[0]]
    for form in SHAPES:
        own.control("PUT", "settings", {"facts": {"link_format": form}})
        links += own.links(distribution)
    assert len(set(links)) == len(SHAPES)
    assert {state(own.web.get(link)) for link in links} == {"open"}
    own.answer(links[-1])
    assert {state(own.web.get(link)) for link in links} == {"taken"}


@pytest.mark.parametrize("form", SHAPES)
def test_an_altered_link_of_any_shape_is_incorrect(own: Customer, state: State, form: str) -> None:
    """Each part of it."""
    own.control("PUT", "settings", {"facts": {"link_format": form}})
    link = own.link()
    parts = re.search(SHAPES[form], link)
    assert parts is not None
    for name in "dsc":
        start, end = parts.span(name)
        altered = link[:start] + "0" * 15 + link[end:]
        assert state(own.web.get(altered)) == "incorrect"
    assert state(own.web.get(link)) == "open"


def test_a_link_of_nothing_is_incorrect(shared: Customer, state: State) -> None:
    """The old address without its parts, and the unseen one with others."""
    for path in ("/SE", "/SE?Q_DL=", f"/survey/{shared.ready.survey_id}/x.y"):
        page = shared.web.get(path)
        assert (state(page), page.status_code) == ("incorrect", 404)


def test_a_transactions_link_has_one_shape_but_for_the_unseen(own: Customer) -> None:
    """Nobody has seen another."""
    path = own.mailing_list()
    body = {
        "contactId": own.add(path)[0],
        "mailingListId": path.rsplit("/", 1)[1],
        "transactionDate": "2026-11-03 14:05:00",
    }
    made = own.result("POST", f"{own.directory}/transactions", {"k": body})
    ids = {"transactionIds": [made["createdTransactions"]["k"]["id"]]}
    batch = own.result("POST", f"{own.directory}/transactionbatches", ids)["id"]
    distribution = own.distribute(
        path, action="CreateTransactionBatchDistribution", transactionBatchId=batch
    )
    shapes = set()
    for form in SHAPES:
        own.control("PUT", "settings", {"facts": {"link_format": form}})
        shapes.add(own.links(distribution)[0].replace(own.ready.origin, ""))
    assert len(shapes) == 2
    unseen = next(link for link in shapes if link.startswith("/survey/"))
    assert own.web.get(unseen).status_code == 200


def test_links_that_were_seen_are_read() -> None:
    """Those of lists and batches, of which the simulator makes the same; older ids are gone."""
    seen = Path(__file__).parents[3] / "shared" / "upstream" / "personal_links.tsv"
    links = [
        "https://a.example/jfe/form/SV_x?Q_CHL=gl&Q_DL=EMD_123456789abcdef_ABCDEFGHIJKLMNO_CGC_abcdefghijklmno"
    ]
    if seen.is_file():
        with seen.open(newline="") as rows:
            links += [row["url"] for row in csv.DictReader(rows, delimiter="\t")]
    for link in links:
        parts = read_q_dl(httpx.URL(link).params["Q_DL"])
        assert (parts is None) == ("_MLRP_" in link)
