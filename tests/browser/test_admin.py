"""The web page as its people use it: with a key, without JavaScript, at a desk and on a phone."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LINKS = "/links?registrant=ann"
PLACES = ("", "/milestones/landed", LINKS, "/drift", "/jobs", "/nothing", "/sign-in")


class Site(Protocol):
    """A Milepost that serves (`conftest.Site`)."""

    url: str
    admin_key: str

    def link(self, event_id: str) -> str:
        """The link of an event of `ann`."""
        ...


@pytest.fixture
def finding(database_url: str, site: Site) -> str:
    """The response of the only finding: nobody knows by which link it came."""
    assert site.url
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(
            "INSERT INTO drift (kind, subject, milestone, response_id, rule, first_seen_at,"
            " last_seen_at) VALUES ('foreign-response', 'a', 'landed', 'R_000000000000001',"
            " 'no-reference', now(), now())"
        )
    return "R_000000000000001"


def sign_in(page: Page, site: Site, place: str = "") -> None:
    """Ask for a page, and show the key that it asks for."""
    page.goto(f"{site.url}/admin{place}")
    page.get_by_label("API key").fill(site.admin_key)
    page.get_by_role("button", name="Sign in").click()


def test_an_admin_signs_in_sees_a_milestone_and_settles_a_finding(
    site: Site, phone: Page, finding: str
) -> None:
    """Nothing but our own host is asked, and no policy of the page is broken."""
    asked: list[str] = []
    errors: list[str] = []
    phone.on("request", lambda request: asked.append(request.url))
    phone.on("console", lambda message: errors.append(message.text))
    sign_in(phone, site)
    phone.get_by_role("link", name="landed").click()
    assert "landed" == phone.get_by_role("heading", level=1).text_content()
    assert 3 == phone.get_by_text("ready", exact=True).count()
    phone.get_by_role("button", name="Pause").click()
    assert phone.get_by_text("Somebody has paused it").is_visible()
    phone.get_by_role("button", name="Resume").click()
    phone.get_by_role("link", name="Drift").click()
    phone.get_by_label("Kind").select_option("foreign-response")
    phone.get_by_role("button", name="Show").click()
    assert phone.get_by_text("What to do:").is_visible()
    phone.get_by_role("button", name=f"Settle {finding}").click()
    assert phone.get_by_text("Nothing of this is open").is_visible()
    assert "kind=foreign-response" in phone.url
    phone.get_by_role("button", name="Sign out").click()
    answer = phone.goto(f"{site.url}/admin/drift")
    assert answer is not None
    assert 401 == answer.status
    assert {urlsplit(site.url).netloc} == {urlsplit(url).netloc for url in asked}
    assert [] == [error for error in errors if "401" not in error]


def test_another_site_cannot_use_the_session(site: Site, desk: Page, finding: str) -> None:
    """Its form comes without a session; its link leads to the way in, and on from there."""
    sign_in(desk, site, "/drift")
    assert desk.get_by_text(finding).is_visible()  # one is where one wanted to be
    elsewhere = site.url.replace("127.0.0.1", "localhost")
    desk.route(
        f"{elsewhere}/evil",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"""<form method="post" action="{site.url}/admin/drift">
            <input name="id" value="1"><button>Win</button></form>
            <a href="{site.url}/admin/drift">Look</a>""",
        ),
    )
    desk.goto(f"{elsewhere}/evil")
    desk.get_by_role("button", name="Win").click()
    assert "Sign in · Milepost" == desk.title()
    desk.goto(f"{elsewhere}/evil")
    desk.get_by_role("link", name="Look").click()
    desk.get_by_role("link", name="Go on").click()
    assert desk.get_by_text(finding).is_visible()


def test_the_pages_fit_a_small_phone_and_can_be_read(
    database_url: str, site: Site, chromium: Browser, finding: str
) -> None:
    """At 320 px nothing is wider than the screen, and every text stands out from what is behind."""
    assert finding
    for event_id in ("finished", "issued"):
        site.link(event_id)
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("UPDATE links SET finished_at = now() WHERE event_id = 'finished'")
    with chromium.new_context(viewport={"width": 320, "height": 568}) as context:
        page = context.new_page()
        sign_in(page, site)
        page.goto(f"{site.url}/admin{LINKS}")
        assert ["finished", "issued"] == page.locator(".pill").all_text_contents()
        for place in PLACES:
            page.goto(f"{site.url}/admin{place}")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert (place, 320) == (place, width)
            assert (place, 1) == (place, page.get_by_role("heading", level=1).count())
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert (place, scheme, []) == (place, scheme, page.evaluate(FAINT))


FAINT = """() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = colour => numbers(colour).slice(0, 3).map(n => n / 255)
        .map(s => s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4)
        .reduce((sum, s, n) => sum + s * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = element => {
        const ground = getComputedStyle(element).backgroundColor;
        return numbers(ground)[3] === 0 ? behind(element.parentElement) : ground;
    };
    return [...document.querySelectorAll("body *")]
        .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .filter(e => e.checkVisibility() && !e.closest("svg"))
        .map(e => {
            const [dim, bright] = [luminance(getComputedStyle(e).color), luminance(behind(e))]
                .sort((a, b) => a - b);
            return [e.outerHTML, (bright + 0.05) / (dim + 0.05)];
        })
        .filter(([, contrast]) => contrast < 4.5);
}"""
"""Finds the texts whose contrast is less than what WCAG asks for, 4.5."""
