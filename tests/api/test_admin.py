"""The web page: who gets in and for how long, what its forms do, and what it never shows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from itertools import product
from urllib.parse import urljoin

import httpx
import msgspec
import psycopg
import pytest
from litestar import Litestar
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from milepost import admin
from milepost.admin.milestones import STEPS
from milepost.admin.sessions import COOKIE, Sessions
from milepost.model import DriftKind, MilestoneDefinition, QuietHours, Reminders, Scope
from milepost.store import Store
from milepost.store.drift import Flag, flag

PLACES = (
    "",
    "/milestones/landed",
    "/links",
    "/drift",
    "/jobs",
    "/nothing",
    "/milestones/nothing",
    "/links/00000000-0000-0000-0000-000000000000",
)
SURVEY = "SV_000000000000001"
LOOKUP = "CGC_secretsecretsec"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Seen(HTMLParser):
    """What a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
async def drift_id(store: Store) -> int:
    """The number of the only finding: somebody is in a list whom no link has put there."""
    given = Flag(
        kind=DriftKind.MEMBERSHIP_WITHOUT_LINK,
        subject="somebody",
        milestone="landed",
        distribution_id="EMD_000000000000001",
        lookup_id=LOOKUP,
    )
    async with store.connections.path() as connection:
        await flag(connection, [given])
    (found,) = await store.drift.page()
    return found.id


@pytest.fixture
async def signed_in(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> AsyncIterator[dict[Scope, httpx.AsyncClient]]:
    """Browsers in which those are signed in who may be."""
    browsers = {}
    for scope in (Scope.READ, Scope.ADMIN):
        browser = httpx.AsyncClient(transport=anybody._transport, base_url=anybody.base_url)  # noqa: SLF001  (the same application)
        answer = await browser.post("/admin/sign-in", data={"key": f" {keys[scope]}\n"})
        assert (303, "./") == (answer.status_code, answer.headers["Location"])
        browsers[scope] = browser
    yield browsers
    for browser in browsers.values():
        await browser.aclose()


def token(page: httpx.Response) -> str:
    """What the forms of a page carry."""
    tokens = {field["value"] for field in Seen(page.text).all("input") if field["name"] == "token"}
    (only,) = tokens
    return str(only)


def is_page(answer: httpx.Response) -> bool:
    """Whether an answer is a page that may run no script, and that nobody may frame or keep."""
    policy = answer.headers["Content-Security-Policy"]
    return (
        answer.headers["Content-Type"].startswith("text/html")
        and policy.startswith("default-src 'none'; style-src 'sha256-")
        and policy.endswith("form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
        and "unsafe" not in policy
        and answer.headers["Cache-Control"] == "no-store"
        and answer.headers["X-Content-Type-Options"] == "nosniff"
        and answer.headers["Referrer-Policy"] == "no-referrer"
        and Seen(answer.text).all("script") == []
    )


async def test_without_a_session_there_is_only_the_way_in(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """401 and the form for a key, also for somebody who sends a key as programs do."""
    for place, headers in product(PLACES, ({}, {"Authorization": f"Bearer {keys[Scope.ADMIN]}"})):
        answer = await anybody.get(f"/admin{place}", headers=headers)
        assert (place, 401, True) == (place, answer.status_code, is_page(answer))
        page = Seen(answer.text)
        assert "key" in [field["name"] for field in page.all("input")]
        assert "landed" not in page.text


async def test_a_key_for_reading_lets_in(signed_in: dict[Scope, httpx.AsyncClient]) -> None:
    """Every page is there, and says what is not."""
    for place, browser in product(PLACES, signed_in.values()):
        answer = await browser.get(f"/admin{place}")
        there = 404 if "nothing" in place or "0000" in place else 200
        assert (place, there, True) == (place, answer.status_code, is_page(answer))


async def test_the_session_is_for_our_own_pages(
    anybody: httpx.AsyncClient, store: Store, keys: dict[Scope, str]
) -> None:
    """No script has its cookie, no other site sends it, and over TLS it goes nowhere else."""
    _, _, secret = keys[Scope.READ].split("_")
    answer = await anybody.post("/admin/sign-in", data={"key": keys[Scope.READ]})
    (given, *attributes) = answer.headers["Set-Cookie"].split("; ")
    assert (True, False) == (given.startswith(f"{COOKIE}="), secret in given)
    assert ["Max-Age=43200", "HttpOnly", "SameSite=Strict"] == attributes
    over_tls = Sessions(store.keys, b"secret", secure=True).cookie("session")
    assert "; ".join([f"{COOKIE}=session", *attributes, "Secure"]) == over_tls


async def test_a_wrong_key_is_told_so(anybody: httpx.AsyncClient, keys: dict[Scope, str]) -> None:
    """401, no cookie, and the page does not repeat what was typed."""
    known, unknown = keys[Scope.ADMIN][:12] + "0" * 64, "mp_00000000_" + "0" * 64
    for key in ("", "mp_", known, unknown, HOSTILE, "\x00", "mp_" + "0" * 3_000):
        answer = await anybody.post("/admin/sign-in", data={"key": key})
        assert (key, 401, True) == (key, answer.status_code, is_page(answer))
        assert "No key in force reads like this" in answer.text
        assert "Set-Cookie" not in answer.headers
        assert len(key) < 4 or key not in answer.text


async def test_a_key_for_something_else_is_told_why(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """403, and which scopes get in."""
    for scope in (Scope.ISSUE, Scope.SYNC):
        answer = await anybody.post("/admin/sign-in", data={"key": keys[scope]})
        assert (403, True) == (answer.status_code, is_page(answer))
        assert f"is for {scope}. These pages take one for read or admin." in answer.text
        assert "Set-Cookie" not in answer.headers


async def test_a_revoked_key_ends_its_sessions(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as what is remembered of keys is read again; other keys go on."""
    async with store.connections.path() as database:
        await database.execute(b"UPDATE api_keys SET revoked_at = now() WHERE name = 'read'")
    monkeypatch.setattr("milepost.store.remembering.time.monotonic", lambda: 1e9)
    assert 401 == (await signed_in[Scope.READ].get("/admin")).status_code
    assert 200 == (await signed_in[Scope.ADMIN].get("/admin")).status_code


async def test_a_session_ends(
    anybody: httpx.AsyncClient,
    store: Store,
    keys: dict[Scope, str],
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself; and nobody makes one, or makes more of one, with less than secret and hash."""
    mine, other = (keys[scope].split("_")[1] for scope in (Scope.READ, Scope.ADMIN))
    session = await sessions.begin(mine)
    _, until, seal = session.split(".")
    of_other_secret = await Sessions(store.keys, b"another secret", secure=False).begin(mine)
    without_hash = f"{mine}.{until}.{sessions._seal('session', f'{mine}.{until}')}"  # noqa: SLF001  (by somebody who knows the secret alone)
    monkeypatch.setattr("milepost.admin.sessions.SESSION_SECONDS", 0)
    ended = await sessions.begin(mine)
    for cookie, status in (
        (session, 200),
        (ended, 401),
        (f"{other}.{until}.{seal}", 401),
        (f"{mine}.{int(until) + 1}.{seal}", 401),
        (f"{mine}.{until}.{'0' * 64}", 401),
        (f"{mine}.{until}.{sessions.token(f'{mine}.{until}')}", 401),
        (of_other_secret, 401),
        (without_hash, 401),
        ("", 401),
        (HOSTILE.replace(";", ""), 401),
    ):
        answer = await anybody.get("/admin", headers={"Cookie": f"{COOKIE}={cookie}"})
        assert (cookie, status) == (cookie, answer.status_code)


async def test_a_session_is_no_key_of_the_api(signed_in: dict[Scope, httpx.AsyncClient]) -> None:
    """Programs show keys; what a browser sends by itself opens nothing there."""
    assert 401 == (await signed_in[Scope.ADMIN].get("/v1/milestones")).status_code


async def test_signing_out_ends_the_session_of_a_browser(
    signed_in: dict[Scope, httpx.AsyncClient],
) -> None:
    """Its cookie goes, by a form of the page and not by an address."""
    browser = signed_in[Scope.READ]
    assert 303 == (await browser.get("/admin/sign-out")).status_code
    page = await browser.get("/admin")
    assert 200 == page.status_code
    out = await browser.post("/admin/sign-out", data={"token": token(page)})
    assert (303, "./sign-in") == (out.status_code, out.headers["Location"])
    assert 401 == (await browser.get("/admin")).status_code


async def test_nobody_else_makes_a_browser_change_something(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store, drift_id: int
) -> None:
    """Without the session's own token, from another site, or as something else than a form."""
    browser = signed_in[Scope.ADMIN]
    right = token(await browser.get("/admin/drift"))
    other = token(await signed_in[Scope.READ].get("/admin/drift"))
    form = {"id": str(drift_id)}
    for given, headers, status in (
        (form, {}, 403),
        (form | {"token": other}, {}, 403),
        (form | {"token": ""}, {}, 403),
        (form | {"token": "\xe4"}, {}, 403),
        (form | {"token": right}, {"Sec-Fetch-Site": "cross-site"}, 403),
        (form | {"token": right}, {"Sec-Fetch-Site": "same-site"}, 403),
        (form | {"token": right}, {"Content-Type": "text/plain"}, 415),
        (form | {"token": right, "more": "x" * 5_000}, {}, 413),
        (form | {"token": right} | {str(n): "1" for n in range(9)}, {}, 400),
    ):
        answer = await browser.post("/admin/drift", data=given, headers=headers)
        assert (given, status, True) == (given, answer.status_code, is_page(answer))
    assert 1 == len(await store.drift.page())


async def test_settling_is_for_admins(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store, drift_id: int
) -> None:
    """`read` sees no button and is refused; an admin comes back to the findings that they saw."""
    place = "/admin/drift?kind=membership-without-link&milestone=landed"
    page = await signed_in[Scope.READ].get(place)
    assert ("landed" in page.text, "Settle" in page.text) == (True, False)
    form = {"token": token(page), "id": str(drift_id)}
    assert 403 == (await signed_in[Scope.READ].post(place, data=form)).status_code
    admins = await signed_in[Scope.ADMIN].get(place)
    form = {"token": token(admins), "id": str(drift_id)}
    done = await signed_in[Scope.ADMIN].post(place, data=form)
    assert (303, place.replace("/admin", ".")) == (done.status_code, done.headers["Location"])
    assert [] == await store.drift.page()
    (settled,) = await store.drift.page(is_settled=True)
    assert "admin" == settled.settled_by
    assert "Nothing of this is open" in (await signed_in[Scope.READ].get(place)).text
    assert "by admin" in (await signed_in[Scope.READ].get("/admin/drift?settled=true")).text
    for wrong in ("", "0", "x", "\u0663", "9" * 30):
        form = {"token": token(admins), "id": wrong}
        answer = await signed_in[Scope.ADMIN].post("/admin/drift", data=form)
        assert (wrong, 404, True) == (wrong, answer.status_code, is_page(answer))


async def test_every_kind_of_drift_says_what_it_means_and_what_to_do(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """A finding of each kind is shown under its kind's own advice, and can be asked for alone."""
    every = [Flag(kind=kind, subject=kind, milestone="landed") for kind in DriftKind]
    async with store.connections.path() as connection:
        await flag(connection, every)
    whole = Seen((await signed_in[Scope.READ].get("/admin/drift")).text)
    assert len(DriftKind) == whole.text.count("What to do:")
    for kind in DriftKind:
        alone = Seen((await signed_in[Scope.READ].get(f"/admin/drift?kind={kind}")).text)
        assert [kind] == [section["aria-labelledby"] for section in alone.all("section")]
    for wrong in ("kind=nothing", "milestone=%00", "after=-1", "settled=2", "unknown=1"):
        answer = await signed_in[Scope.READ].get(f"/admin/drift?{wrong}")
        assert (wrong, 400, True) == (wrong, answer.status_code, is_page(answer))


async def test_many_findings_come_page_by_page(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them once."""
    monkeypatch.setattr("milepost.admin.drift.AT_ONCE", 2)
    many = [
        Flag(kind=DriftKind.FOREIGN_RESPONSE, subject=f"{n}", response_id=f"R_{n}")
        for n in range(5)
    ]
    async with store.connections.path() as connection:
        await flag(connection, many)
    seen, place = [], "/admin/drift?kind=foreign-response"
    while place:
        page = Seen((await signed_in[Scope.READ].get(place)).text)
        seen += re.findall(r"R_\d", page.text)
        onward = [link["href"] or "" for link in page.all("a") if "after=" in (link["href"] or "")]
        place = urljoin(place, onward[0]) if onward else ""
    assert [f"R_{n}" for n in range(5)] == seen


async def test_links_are_for_admins(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store, drift_id: int
) -> None:
    """What makes a link is left out for `read`, on the page as in the API."""
    assert drift_id
    async with store.connections.path() as database:
        await database.execute(
            b"UPDATE milestones SET stopped_at = now(), stopped_because = 'It has changed.',"
            b" stopped_expected = 'https://built.example', stopped_found = 'https://found.example'"
        )
    for scope, whole in ((Scope.READ, False), (Scope.ADMIN, True)):
        page = (await signed_in[scope].get("/admin/milestones/landed")).text
        assert "It has changed." in page
        assert (whole, whole) == ("https://built.example" in page, "https://found.example" in page)
        assert whole == (LOOKUP in (await signed_in[scope].get("/admin/drift")).text)


async def test_hostile_values_are_text(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """What a name, an error or an address holds is shown, and is no element of the page."""
    definition = MilestoneDefinition(survey_id="SV_000000000000001", name=HOSTILE)
    await store.milestones.put("landed", definition)
    await store.runs.note_round("drain", HOSTILE)
    async with store.connections.path() as database:
        await database.execute(
            b"UPDATE milestones SET stopped_at = now(), stopped_because = name,"
            b" stopped_expected = name, stopped_found = name"
        )
        foreign = Flag(kind=DriftKind.FOREIGN_RESPONSE, subject="a", response_id=HOSTILE)
        await flag(database, [foreign])
    for place in ("", "/milestones/landed", "/drift", "/jobs"):
        page = Seen((await signed_in[Scope.ADMIN].get(f"/admin{place}")).text)
        assert (place, True) == (place, HOSTILE in page.text)
        assert (place, [], []) == (place, page.all("script"), page.all("img"))
    for place in (f"/admin/{HOSTILE}", f"/admin/milestones/{HOSTILE}"):
        answer = await signed_in[Scope.ADMIN].get(place)
        page = Seen(answer.text)
        assert (404, [], []) == (answer.status_code, page.all("script"), page.all("img"))


async def test_a_link_says_which_rule_decided(
    signed_in: dict[Scope, httpx.AsyncClient], anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """It is found by person or event, with its reason and its moments, and without its URL."""
    headers = {"Authorization": f"Bearer {keys[Scope.ISSUE]}"}
    event = {"event_id": HOSTILE, "milestone": "landed", "registrant": "ann"}
    link = (await anybody.post("/v1/links", json=event, headers=headers)).json()
    token = link["url"].rpartition("/")[2]
    for scope, query in product(signed_in, ({"registrant": "ann"}, {"event_id": HOSTILE})):
        answer = await signed_in[scope].get("/admin/links", params=query)
        page = Seen(answer.text)
        assert (True, []) == (
            link["reason"]["rule"].replace("-", " ") in page.text,
            page.all("img"),
        )
        (found,) = [one["href"] for one in page.all("a") if link["id"] in (one["href"] or "")]
        whole = await signed_in[scope].get(urljoin("/admin/links", found))
        assert 200 == whole.status_code
        assert "asked for" in whole.text
        assert [False, False] == [token in one.text for one in (answer, whole)]
    nobody = await signed_in[Scope.READ].get("/admin/links?registrant=nobody")
    assert "Nobody has asked for such a link." in nobody.text
    wrong = await signed_in[Scope.READ].get("/admin/links?event_id=%00")
    assert (400, True) == (wrong.status_code, is_page(wrong))


async def test_pausing_is_for_admins(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """A milestone is paused and resumed by a button, and says on each page what that means."""
    place = "/admin/milestones/landed"
    assert "Pause" not in (await signed_in[Scope.READ].get(place)).text
    for state, button in (("paused", "Resume"), ("active", "Pause")):
        form = {"token": token(await signed_in[Scope.ADMIN].get(place)), "state": state}
        done = await signed_in[Scope.ADMIN].post(place, data=form)
        assert (303, "../milestones/landed") == (done.status_code, done.headers["Location"])
        assert state == (await store.milestones.get("landed")).state
        assert button in (await signed_in[Scope.ADMIN].get(place)).text
        for page in ("/admin", place):
            told = "new events are refused" in (await signed_in[Scope.READ].get(page)).text
            assert (page, state == "paused") == (page, told)


MET = "UPDATE distributions SET last_error = 'the survey is not there'"

SUCCESSOR = """
    INSERT INTO distributions (slot_id, generation, description, state, created_at, last_error)
    SELECT slot_id, generation + 1, 'x', 'making', now(), 'the library is not there'
    FROM distributions
"""


async def test_a_pool_without_an_end_in_sight_says_what_it_lacks(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """An active milestone that can give no links is not shown as well, and says what to do."""
    places = ("/admin", "/admin/milestones/landed")
    await store.pools.plan("landed", "deployed")
    for said, then in (
        ("Its pool is being made.", MET),
        ("takes no links: the survey is not there", SUCCESSOR),
        ("takes no links: the library is not there", "SELECT"),
    ):
        for place in places:
            page = Seen((await signed_in[Scope.READ].get(place)).text)
            assert (place, True) == (place, said in page.text)
            (pill, *_) = [one["class"] for one in page.all("span") if "pill" in str(one["class"])]
            assert (place, "pill warn") == (place, pill)
        async with store.connections.path() as database:
            await database.execute(then.encode())


async def test_a_milestone_shows_its_whole_definition(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """Also when people are reminded; its key is not said again where it is its name."""
    reminders = Reminders(after_days=3, quiet_hours=QuietHours("21:00", "08:00"))
    for name, times in (("landed", 1), ("After landing", 2)):
        definition = MilestoneDefinition(survey_id=SURVEY, name=name, reminders=reminders)
        await store.milestones.put("landed", definition)
        page = Seen((await signed_in[Scope.READ].get("/admin/milestones/landed")).text)
        terms = ("Membership", "with the event", "Late data", "after 3 days, not from 21:00 to")
        assert [] == [term for term in terms if term not in page.text]
        assert (name, times) == (name, 1 + page.all("code").count({"class": "soft"}))


async def test_what_went_wrong_in_a_run_is_told_line_by_line(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """And what only programs read of its counts is left out."""
    await store.runs.ask("replenish", asked_by="ops")
    run = await store.runs.take("replenish")
    assert run is not None
    counts = {"failed": 2, "errors": ["slot 1: gone", "slot 2: gone"], "read": [{"kind": "csv"}]}
    await store.runs.end(run, "done", counts=counts)
    page = Seen((await signed_in[Scope.READ].get("/admin/jobs")).text)
    assert ([True, True], False) == (
        [f"\n{error}\n" in page.text for error in counts["errors"]],
        "kind" in page.text,
    )
    assert {"class": "pill warn"} in page.all("span")
    drift = Seen((await signed_in[Scope.READ].get("/admin/drift")).text)
    assert "looks every 15 min." in drift.text


async def test_the_funnel_is_a_picture_a_table_and_files(
    signed_in: dict[Scope, httpx.AsyncClient], store: Store
) -> None:
    """Today's numbers, the steps with their shares, a row for each day, and the same as CSV."""
    async with store.connections.path() as database:
        await database.execute(
            b"INSERT INTO funnel SELECT 'landed', date_trunc('hour', now()), 1,"
            b" 1200, 0, 0, 0, 1100, 900, 300, 600, 450, now()"
        )
        await database.execute(b"INSERT INTO funnel_folds VALUES ('landed', now(), now())")
    browser = signed_in[Scope.READ]
    assert "1\u202f100" in (await browser.get("/admin")).text
    page = Seen((await browser.get("/admin/milestones/landed?days=7")).text)
    rows = [heading for heading in page.all("th") if heading.get("scope") == "row"]
    assert 7 + len(STEPS) == len(rows)
    for said in ("1\u202f200", "100.0\u202f%", "37.5\u202f%"):
        assert said in page.text
    files = [link["href"] or "" for link in page.all("a") if "download" in link]
    kinds = []
    for file in files:
        answer = await browser.get(urljoin("/admin/milestones/landed", file))
        assert (file, 200, "no-store") == (
            file,
            answer.status_code,
            answer.headers["Cache-Control"],
        )
        kinds.append(answer.headers["Content-Type"].partition(";")[0])
    usual = ["text/csv", "application/json", "image/svg+xml", "text/csv", "application/x-ndjson"]
    assert usual == kinds
    assert "1200" in (await browser.get(urljoin("/admin/milestones/landed", files[0]))).text
    wrong = await browser.get("/admin/milestones/landed?days=0")
    assert (400, True) == (wrong.status_code, is_page(wrong))


async def test_every_link_of_every_page_leads_somewhere(
    signed_in: dict[Scope, httpx.AsyncClient], drift_id: int
) -> None:
    """From the first page, however it is written, all addresses are relative, and all are there."""
    assert drift_id
    browser = signed_in[Scope.ADMIN]
    todo, done = ["/admin", "/admin/", "/admin/jobs/"], set[str]()
    while todo:
        place = todo.pop()
        if place in done:
            continue
        done.add(place)
        answer = await browser.get(place)
        assert (place, 200) == (place, answer.status_code)
        if not place.startswith("/admin") or "/v1/" in place:
            continue
        assert is_page(answer)
        page = Seen(answer.text)
        links = [link["href"] or "" for link in page.all("a")]
        forms = [form["action"] or "" for form in page.all("form")]
        assert [] == [address for address in links + forms if address.startswith(("/", "http"))]
        for form in forms:
            assert urljoin(place, form).startswith("/admin/")
        todo += [urljoin(place, link).partition("#")[0] or place for link in links]
    assert {"/admin/drift", "/admin/jobs", "/admin/milestones/landed"} <= done


async def test_after_signing_in_one_is_where_one_wanted_to_be(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """And never at another site."""
    for place, leads_to in (
        ("/milestones/landed", "./milestones/landed"),
        ("", "./"),
        ("//evil.example", "./"),
        ("/../../evil", "./"),
        ("https://evil.example", "./"),
        ("/\\evil.example", "./"),
    ):
        form = {"key": keys[Scope.READ], "place": place}
        answer = await anybody.post("/admin/sign-in", data=form)
        assert (place, 303, leads_to) == (place, answer.status_code, answer.headers["Location"])


async def test_while_the_database_is_away_the_page_says_so(
    signed_in: dict[Scope, httpx.AsyncClient],
    anybody: httpx.AsyncClient,
    postgres_url: str,
    database_url: str,
) -> None:
    """503 with `Retry-After`, readable, also where it is the key that cannot be looked up."""
    with psycopg.connect(postgres_url, autocommit=True) as server:
        name = conninfo_to_dict(database_url)["dbname"]
        close = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false")
        server.execute(close.format(sql.Identifier(str(name))))
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
    unseen = {"key": "mp_00000000_" + "0" * 64}
    for answer in (
        await signed_in[Scope.READ].get("/admin"),
        await signed_in[Scope.READ].get("/admin/drift"),
        await anybody.post("/admin/sign-in", data=unseen),
    ):
        told = (answer.status_code, answer.headers.get("Retry-After"), is_page(answer))
        assert (503, "1", True) == told
        assert "cannot reach its database" in answer.text


def test_the_page_is_not_part_of_the_schema(application: Litestar) -> None:
    """It is for people: no program should count on how it looks."""
    paths = msgspec.json.decode(msgspec.json.encode(application.openapi_schema.to_schema()))
    assert [] == [path for path in paths["paths"] if path.startswith("/admin")]
    assert admin.__doc__
