"""What people see: the survey behind a link, the pages before it, and the API's documentation."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Request

pytestmark = pytest.mark.browser


class Site(Protocol):
    """A Milepost that serves (`conftest.Site`)."""

    url: str

    def link(self, event_id: str, milestone: str = "landed") -> str:
        """The link of an event, a short one of milestone `visited`."""
        ...

    def slow_down(self, milliseconds: int) -> None:
        """Let the platform take so long for every answer from now on."""
        ...

    def let_days_pass(self, days: int) -> None:
        """Put the platform's clock ahead."""
        ...


def state(page: Page) -> str | None:
    """What the survey page says of itself."""
    return page.locator("main").get_attribute("data-state")


def overflows(page: Page, width: int) -> bool:
    """Whether something on the page is wider than the screen."""
    boxes = [element.bounding_box() for element in page.locator("main *:visible").all()]
    return any(box["x"] < 0 or box["x"] + box["width"] > width for box in boxes if box)


def test_a_customer_answers_once_on_a_phone_without_javascript(site: Site, phone: Page) -> None:
    """The link opens, its form is sent off with thanks, and a second visit is refused."""
    link = site.link("e1")
    phone.goto(link)
    assert "open" == state(phone)
    assert not overflows(phone, 390)
    assert "4711" not in phone.content()
    assert "A-secret-gate" not in phone.content()
    assert "ann@example.com" not in phone.content()
    for group in phone.locator("fieldset").all():
        group.locator("input").last.check(force=True)
    for box in phone.locator("textarea").all():
        box.fill("A smooth landing.")
    phone.get_by_role("button").tap()
    phone.locator("main[data-state=thanks]").wait_for()
    assert "A-secret-gate" not in phone.content()
    answer = phone.goto(link)
    assert answer is not None
    assert 410 == answer.status
    assert "taken" == state(phone)
    assert phone.get_by_text("already been taken").is_visible()


def test_what_can_be_tapped_is_large_enough_and_can_be_seen(site: Site, phone: Page) -> None:
    """Each choice is 44 px high or more, apart from its neighbour, and has an edge that shows."""
    phone.goto(site.link("e1"))
    targets = phone.locator("label:has(input), textarea, button")
    boxes = [box for each in targets.all() if (box := each.bounding_box())]
    assert 11 == len(boxes)
    assert 44 <= min(min(box["width"], box["height"]) for box in boxes)
    for above, below in pairwise(boxes):
        same_row = above["y"] == below["y"]
        gap = below["x"] - above["x"] - above["width"] if same_row else 8
        assert 8 <= gap
    for scheme in ("light", "dark"):
        phone.emulate_media(color_scheme=scheme)
        for edge in phone.locator("label span, textarea").all():
            assert 3 <= contrast(edge, "borderTopColor")
        for text in phone.locator("h1, p, legend, label, button, .ends span").all():
            assert 4.5 <= contrast(text)


def test_an_expired_link_says_so_and_one_that_was_opened_in_time_goes_on(
    site: Site, phone: Page
) -> None:
    """Expiry counts before the first click only."""
    begun, late = site.link("e1"), site.link("e2")
    phone.goto(begun)
    assert "open" == state(phone)
    site.let_days_pass(61)
    answer = phone.goto(late)
    assert answer is not None
    assert (410, "expired") == (answer.status, state(phone))
    assert phone.get_by_text("This link has expired").is_visible()
    phone.goto(begun)
    phone.locator("fieldset").first.locator("input").last.check(force=True)
    phone.get_by_role("button").tap()
    phone.locator("main[data-state=thanks]").wait_for()


def test_an_altered_link_says_that_the_url_is_incorrect(site: Site, phone: Page) -> None:
    """One letter of the lookup id changed: nothing opens, and no reason is guessed."""
    link = site.link("e1")
    at = link.index("CGC_") + 4
    altered = f"{link[:at]}{'b' if link[at] == 'a' else 'a'}{link[at + 1 :]}"
    answer = phone.goto(altered)
    assert answer is not None
    assert 404 == answer.status
    assert "incorrect" == state(phone)
    assert phone.get_by_text("The URL is incorrect").is_visible()


def test_a_short_link_waits_and_opens_the_survey_by_itself(site: Site, phone: Page) -> None:
    """On a slow platform the page says so, without JavaScript, and nobody learns where from."""
    short = site.link("e1", "visited")
    requests: list[Request] = []
    phone.on("request", lambda request: requests.append(request))  # noqa: PLW0108 - playwright marks it
    site.slow_down(4_000)
    phone.goto(short)
    assert "waiting" == state(phone)
    assert not overflows(phone, 390)
    assert short.rpartition("/")[2] not in phone.content()
    site.slow_down(0)
    phone.locator("main[data-state=open] form").wait_for()
    assert "/jfe/form/" in phone.url
    opened = [request.all_headers() for request in requests if request.is_navigation_request()]
    assert 3 <= len(opened)
    assert {None} == {headers.get("referer") for headers in opened}  # as they were sent


def test_a_short_link_that_took_too_long_has_a_button(site: Site, phone: Page) -> None:
    """The policy of the page lets a tap on it lead to another host."""
    short = site.link("e1", "visited")
    site.slow_down(4_000)
    phone.goto(f"{short}?try=10")
    assert "later" == state(phone)
    site.slow_down(0)
    phone.get_by_role("link").tap()
    phone.locator("main[data-state=open] form").wait_for()
    assert "/jfe/form/" in phone.url


@pytest.mark.parametrize("language", ["de", "pl", "pt"])
def test_the_pages_of_short_links_fit_a_small_phone(
    site: Site, chromium: Browser, language: str
) -> None:
    """At 320 px, in light and dark, with every text in reach and easy to read."""
    short = site.link("e1", "visited")
    places = {"unknown": f"{site.url}/l/nothing", "open": short}
    for scheme in ("light", "dark"):
        with chromium.new_context(
            viewport={"width": 320, "height": 568},
            color_scheme=scheme,
            extra_http_headers={"Accept-Language": language},
            user_agent="TelegramBot (like TwitterBot)",
        ) as context:
            page = context.new_page()
            asked: list[str] = []
            errors: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, errors=errors: errors.append(message.text))
            for name, place in places.items():
                page.goto(place)
                assert (name, language) == (state(page), page.get_attribute("html", "lang"))
                assert not overflows(page, 320)
                for text in page.locator("h1, p, a").all():
                    assert contrast(text) >= 4.5
            assert {urlsplit(site.url).netloc} == {urlsplit(url).netloc for url in asked}
            assert [] == [error for error in errors if "404" not in error]


def contrast(text: Locator, ink_of: str = "color") -> float:
    """How much a text, or an edge, stands out from what is behind, as WCAG counts it: 1 to 21."""
    ink, ground = text.evaluate(
        """(element, inkOf) => {
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
                behind = behind.parentElement;
            return [getComputedStyle(element)[inkOf], getComputedStyle(behind).backgroundColor];
        }""",
        ink_of,
    )
    bright, dim = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    """How bright a colour is, as WCAG counts it: 0 to 1."""
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (int(number) / 255 for number in re.findall(r"\d+", colour)[:3])
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_documentation_renders_and_asks_no_other_host(site: Site, desk: Page) -> None:
    """Every route can be read, and nothing is loaded from elsewhere."""
    asked: list[str] = []
    errors: list[str] = []
    desk.on("request", lambda request: asked.append(request.url))
    desk.on("pageerror", lambda error: errors.append(str(error)))
    desk.goto(f"{site.url}/schema/docs", wait_until="networkidle")
    assert desk.get_by_text("/v1/links", exact=True).first.is_visible()
    desk.get_by_text("/v1/links", exact=True).first.click()
    assert {urlsplit(site.url).netloc} == {urlsplit(url).netloc for url in asked}
    assert [] == errors
