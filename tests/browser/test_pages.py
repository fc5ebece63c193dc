"""What people see: the survey behind a link, and the API's documentation."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser


class Site(Protocol):
    """A Milepost that serves (`conftest.Site`)."""

    url: str

    def link(self, event_id: str) -> str:
        """The personal link of an event."""
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
