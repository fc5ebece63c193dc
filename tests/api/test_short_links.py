"""The short link over HTTP: who gets a page, who is redirected, and what the pages say."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
from litestar import Litestar
from msgspec.structs import asdict

from milepost.api.languages import WORDS, language_of
from milepost.api.visitors import Visitor, visitor
from milepost.model import Lane, MilestoneDefinition, Scope
from milepost.store import Store

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)
WEBVIEW = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E1"
ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/140.0.0.0 Mobile"
PERSONAL = "https://brand.example/jfe/form/SV_1?Q_CHL=gl&Q_DL=EMD_1_1_CGC_1&_g_=g"
NO_TOKEN = "A" * 22

PEOPLE = [
    IPHONE,
    ANDROID,
    f"{ANDROID} CUBOT_NOTE_20/1.0",
    "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/120.0.0.0 Mobile",
    f"{WEBVIEW} [FBAN/FBIOS;FBAV/470.0.0.38.107;FBBV/611;FBDV/iPhone14,5;FBMD/iPhone]",
    f"{ANDROID} [FB_IAB/FB4A;FBAV/470.0.0.34.73;]",
    f"{WEBVIEW} Instagram 340.0.1.19.89",
    f"{WEBVIEW} [LinkedInApp]/9.30.100",
    f"{WEBVIEW} Twitter for iPhone/10.40",
    f"{ANDROID} Telegram-Android/11.2 (Samsung SM-S911B; Android 14; SDK 34; HIGH)",
    f"{WEBVIEW} WhatsApp/2.24.20",
    f"{WEBVIEW} GSA/330.0.659",
    f"{WEBVIEW} [Pinterest/iOS]",
    f"{ANDROID} Snapchat/13.1",
    f"{WEBVIEW} BingSapphire/30.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Slack/4.36 Electron/28.2 Safari",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Teams/24.1 Edg/130.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/140.0.0.0 Safari/537.36",
    f"{WEBVIEW} Outlook-iOS/2.0",
    "curl/8.5.0",
    "python-httpx/0.28.1",
    "okhttp/4.12.0",
    "MyApp/3 CFNetwork/1498 Darwin/23.6.0",
    "",
]

PROGRAMS = [
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Slackbot 1.0 (+https://api.slack.com/robots)",
    "WhatsApp/2.24.20.89 A",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "facebookexternalhit/1.1",
    "meta-externalfetcher/1.1",
    "Mozilla/5.0 (Macintosh) Version/9.0 Safari/601 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
    "Mozilla/5.0 (Windows NT 6.1) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
    "Twitterbot/1.0",
    "TelegramBot (like TwitterBot)",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
    "Pinterest/0.2 (+https://www.pinterest.com/bot.html)",
    "GoogleMessages/20",
    f"{ANDROID} (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; Google-InspectionTool/1.0)",
    "AdsBot-Google (+http://www.google.com/adsbot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    f"{IPHONE} BingPreview/1.0b",
    f"{IPHONE} (Applebot/0.1; +http://www.apple.com/go/applebot)",
    "Microsoft Office SafeLinks Protection",
    "Mozilla/4.0 (compatible; ms-office; MSOffice 16)",
    "Microsoft Office Existence Discovery",
    "Barracuda Sentinel (EE)",
    "Proofpoint URL Defense",
    "Mimecast URL Protect",
    "http.rb/5.1.1 (Mastodon/4.2.0; +https://mastodon.example/) Bot",
]


@pytest.mark.parametrize("user_agent", PEOPLE)
def test_whoever_does_not_say_otherwise_is_a_person(user_agent: str) -> None:
    """Browsers inside the apps of companies that also run bots, odd phones, and libraries."""
    assert Visitor.PERSON == visitor("GET", {"user-agent": user_agent})


@pytest.mark.parametrize("user_agent", PROGRAMS)
def test_a_program_that_says_so_is_no_person(user_agent: str) -> None:
    """Previews in chats, search engines, checks of mail, and Office."""
    assert Visitor.PROGRAM == visitor("GET", {"user-agent": user_agent})


def test_a_head_request_is_never_a_persons() -> None:
    """No browser sends one when a link is tapped."""
    assert Visitor.PROGRAM == visitor("HEAD", {"user-agent": IPHONE})


@pytest.mark.parametrize(
    ("name", "value", "is_ahead"),
    [
        ("sec-purpose", "prefetch", True),
        ("sec-purpose", "prefetch;prerender", True),
        ("sec-purpose", "prefetch;anonymous-client-ip", True),
        ("purpose", "prefetch", True),
        ("x-purpose", "preview", True),
        ("x-purpose", ": Preview", True),
        ("x-moz", "prefetch", True),
        ("purpose", "", False),
        ("x-purpose", "navigation", False),
        ("sec-fetch-mode", "navigate", False),
    ],
)
def test_a_browser_says_that_it_comes_ahead_of_its_person(
    name: str,
    value: str,
    is_ahead: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    """Four headers have been in use for it."""
    seen = visitor("GET", {"user-agent": IPHONE, name: value})
    assert (Visitor.BROWSER if is_ahead else Visitor.PERSON) == seen


def test_a_long_user_agent_is_read_at_once() -> None:
    """The pattern does not go back and forth: 100,000 characters take no time."""
    assert Visitor.PERSON == visitor("GET", {"user-agent": "Google Google-Web +http:/" * 4_000})


@pytest.mark.parametrize(
    ("registrant", "accepted", "language"),
    [
        (None, None, "en"),
        ("DE", "fr", "de"),
        ("PT-BR", None, "pt"),
        ("es_419", "fr", "es"),
        (" It ", None, "it"),
        ("JA", "pl-PL,en;q=0.5", "pl"),
        ("", "nl", "nl"),
        (None, "da, fr-CH;q=0.8, en-GB;q=0.7", "fr"),
        (None, "en;q=0.1, fr;q=0.2", "fr"),
        (None, "fr;q=0, *", "en"),
        (None, "fr;q=0", "en"),
        (None, "de;q=1.000,fr;q=2", "de"),
        (None, "ja,zh-Hant-TW", "en"),
        (None, ";;q=,,-,\x00,*;q=0.5,DE-de ; q=0.9", "de"),
        (None, "x," * 100_000 + "fr", "en"),
    ],
)
def test_the_page_speaks_the_customers_language(
    registrant: str | None, accepted: str | None, language: str
) -> None:
    """The registrant's, else the best of what the browser asks for, else English."""
    assert language == language_of(registrant, accepted)


def test_the_words_are_whole_in_every_language() -> None:
    """Eight languages, nothing empty, nothing of Milepost, no word of one left in another."""
    assert {"en", "de", "fr", "es", "it", "pt", "nl", "pl"} == set(WORDS)
    for name in asdict(WORDS["en"]):
        said = [getattr(words, name) for words in WORDS.values()]
        assert (name, True) == (name, all(said))
        assert (name, len(said)) == (name, len(set(said))) if name.endswith("_text") else True
        assert not re.search(r"milepost|qualtrics|milestone|token", " ".join(said), re.IGNORECASE)


@pytest.fixture
async def visitor_of(application: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A customer with a phone and no key, who speaks French and goes no further than told."""
    headers = {"User-Agent": IPHONE, "Accept-Language": "fr-FR,fr;q=0.9"}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://milepost.test", headers=headers
    ) as customer:
        yield customer


@pytest.fixture
async def short(store: Store, keys: dict[Scope, str], application: Litestar) -> str:
    """The path of a short link whose personal URL is known."""
    definition = MilestoneDefinition(survey_id="SV_000000000000001", lanes=(Lane.DEFERRED,))
    await store.milestones.put("visited", definition)
    event = {"event_id": "e1", "milestone": "visited", "registrant": "ann"}
    headers = {"Authorization": f"Bearer {keys[Scope.ISSUE]}"}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://milepost.test") as app:
        answer = await app.post("/v1/links", json=event, headers=headers)
    assert "deferred" == answer.json()["lane"], answer.text
    await _update(
        store,
        "state = 'issued', route = 'list', lookup_id = 'CGC_1', issued_at = now(), due_at = NULL,"
        f" expires_at = now() + interval '1 day', rule = NULL, url = '{PERSONAL}'",
    )
    return urlsplit(answer.json()["url"]).path


async def _update(store: Store, changes: str) -> None:
    async with store.connections.path() as database:
        await database.execute(f"UPDATE links SET {changes}".encode())


def state(page: httpx.Response) -> str | None:
    """What a page says of itself, once it has been seen to be one of ours."""
    assert "text/html; charset=utf-8" == page.headers["content-type"]
    assert_guarded(page)
    assert "no-store" == page.headers["cache-control"]
    assert "no-referrer" == page.headers["referrer-policy"]
    assert "noindex" in page.headers["x-robots-tag"]
    found = re.search(r'<main data-state="(\w+)">', page.text)
    return found and found[1]


def assert_guarded(page: httpx.Response) -> None:
    """No script, no other host, and no style but the page's own, which its policy names."""
    assert None is re.search(r"<script|javascript:|\son\w+=|\sstyle=|//[\w.-]+\.\w+", page.text)
    style = re.search(r"<style>(.*)</style>", page.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


async def test_a_person_is_sent_on(visitor_of: httpx.AsyncClient, short: str) -> None:
    """To the personal URL as it stands, with nothing left behind in a cache or a referrer."""
    answer = await visitor_of.get(short)
    assert (302, PERSONAL, b"") == (answer.status_code, answer.headers["location"], answer.content)
    assert {
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-robots-tag": "noindex, nofollow",
    } == {n: answer.headers[n] for n in ("cache-control", "referrer-policy", "x-robots-tag")}


async def test_programs_get_a_page_that_tells_nothing(
    visitor_of: httpx.AsyncClient, short: str, store: Store
) -> None:
    """The same for a link that is there and for one that is not; the visit leaves no trace."""
    pages = []
    for path in (short, f"/l/{NO_TOKEN}"):
        for headers in (
            {"User-Agent": PROGRAMS[0]},
            {"User-Agent": PROGRAMS[-1]},
        ):
            page = await visitor_of.get(path, headers=headers)
            assert (200, "open", None) == (
                page.status_code,
                state(page),
                page.headers.get("location"),
            )
            assert "brand.example" not in page.text
            pages.append(page.text)
        head = await visitor_of.head(path)
        assert (200, b"", None) == (head.status_code, head.content, head.headers.get("location"))
    assert 1 == len(set(pages))
    async with store.connections.path() as database:
        cursor = await database.execute(b"SELECT clicked_at FROM links")
        assert [{"clicked_at": None}] == await cursor.fetchall()


async def test_a_page_that_was_fetched_ahead_goes_on_once_it_is_shown(
    visitor_of: httpx.AsyncClient, short: str
) -> None:
    """A prerendered page is what the person sees: it asks again by itself, though not for ever."""
    for header in ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"):
        ahead = await visitor_of.get(short, headers={header: "prefetch"})
        assert (header, 200, "open") == (header, ahead.status_code, state(ahead))
        assert '<meta http-equiv="refresh" content="1; url=?try=2">' in ahead.text
        assert 'href="?"' in ahead.text
    last = await visitor_of.get(f"{short}?try=10", headers={"Sec-Purpose": "prefetch"})
    assert "open" == state(last)
    assert "http-equiv" not in last.text


@pytest.mark.parametrize(
    "changes",
    [
        "expires_at = now() - interval '1 second'",
        "revoked_at = now()",
        "state = 'failed', rule = 'upstream-refused', url = NULL, issued_at = NULL",
    ],
    ids=["expired", "revoked", "withdrawn"],
)
async def test_a_link_that_has_ended_is_gone(
    visitor_of: httpx.AsyncClient, short: str, store: Store, changes: str
) -> None:
    """One page for every reason: why is nobody's business but the sender's."""
    await _update(store, changes)
    page = await visitor_of.get(short)
    assert (410, "gone", None) == (page.status_code, state(page), page.headers.get("location"))
    assert '<html lang="fr">' in page.text
    assert "brand.example" not in page.text


async def test_an_erased_person_has_no_links(
    visitor_of: httpx.AsyncClient, short: str, store: Store
) -> None:
    """410 from the erasure on."""
    async with store.connections.path() as database:
        await database.execute(b"UPDATE registrants SET erased_at = now()")
    page = await visitor_of.get(short)
    assert (410, "gone") == (page.status_code, state(page))


async def test_the_registrants_language_wins(
    visitor_of: httpx.AsyncClient, short: str, store: Store
) -> None:
    """Over what the browser asks for."""
    async with store.connections.path() as database:
        await database.execute(b"UPDATE registrants SET language = 'DE'")
    await _update(store, "revoked_at = now()")
    page = await visitor_of.get(short)
    assert '<html lang="de">' in page.text
    assert WORDS["de"].gone_text in page.text


async def test_no_link_looks_like_another_one(visitor_of: httpx.AsyncClient, short: str) -> None:
    """Whatever is no token gets the same page as a token that nobody was given."""
    unknown = await visitor_of.get(f"/l/{NO_TOKEN}")
    assert (404, "unknown") == (unknown.status_code, state(unknown))
    for wrong in (
        "",
        "x",
        NO_TOKEN[1:],
        f"{NO_TOKEN}A",
        f"{short[3:]}.",
        f"{short[3:]}%0A",
        f"{short[3:-1]}%00",
        f"{short[3:]}/more",
        "%C3%A4" * 22,
        "..%2F..%2Fetc%2Fpasswd",
        "<script>alert(1)</script>",
        "A" * 5_000,
    ):
        page = await visitor_of.get(f"/l/{wrong}")
        assert (wrong, 404, unknown.text) == (wrong, page.status_code, page.text)
        assert (wrong, unknown.headers) == (wrong, page.headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_short_link_is_only_opened(visitor_of: httpx.AsyncClient, method: str) -> None:
    """Other methods are refused before anything is looked up."""
    answer = await visitor_of.request(method, f"/l/{NO_TOKEN}")
    assert (405, True) == (answer.status_code, "GET" in answer.headers["allow"])


async def test_while_the_database_is_away_the_page_waits(
    visitor_of: httpx.AsyncClient, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with `Retry-After`, a page that asks again, and a log that does not have the token."""
    caplog.set_level(logging.DEBUG)
    await store.connections.close()
    for attempt in ("1", "0", "-1", "x", "9" * 5_000, "\u0663", "1;DROP", ""):
        page = await visitor_of.get(f"/l/{NO_TOKEN}", params={"try": attempt})
        assert (503, "waiting", "1") == (page.status_code, state(page), page.headers["retry-after"])
        assert '<meta http-equiv="refresh" content="3; url=?try=2">' in page.text
        assert NO_TOKEN not in page.text
    last = await visitor_of.get(f"/l/{NO_TOKEN}?try=10")
    assert (503, "later") == (last.status_code, state(last))
    assert "http-equiv" not in last.text
    assert 'href="?"' in last.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("milepost")]
    assert 9 == len(ours)
    assert NO_TOKEN not in " ".join(ours)


async def test_a_mistake_of_ours_shows_a_customer_a_page(
    visitor_of: httpx.AsyncClient, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with the page that asks to come back, and a log without the token."""
    async with store.connections.path() as database:
        await database.execute(b"ALTER TABLE links RENAME COLUMN token TO tokens")
    page = await visitor_of.get(f"/l/{NO_TOKEN}")
    assert (500, "later") == (page.status_code, state(page))
    assert "answered 500: UndefinedColumn" in caplog.text
    assert NO_TOKEN not in caplog.text
