"""Opens links as a browser would, and has them answered.

Whether a link opens is seen by comparison: with a link that the platform itself lists, and with one
that it cannot know. Status and visible text are compared, without what looks like an id; a survey
page that only scripts fill shows the same to a good and a bad link, and then only a person can say.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import unescape
from html.parser import HTMLParser
from typing import Final, Literal, Protocol

import httpx
from msgspec import Struct

OPEN_SECONDS: Final = 15.0
"""How long a survey page may take to come."""

MOST_HOPS: Final = 5
LARGEST_PAGE: Final = 4 * 1024 * 1024

_MARGIN: Final = 0.1
"""By how much a page must be more like one of two than like the other, where it is neither's twin:
survey pages greet people by name."""

_UNSEEN: Final = re.compile(r"(?is)<(script|style|noscript|template)\b.*?</\1\s*>|<!--.*?-->")
_TAG: Final = re.compile(r"<[^>]*>")
_ID_LIKE: Final = re.compile(r"\b(?:[A-Z]{1,5}_)?(?=\w*\d)(?=\w*[A-Za-z])\w{12,}\b")

Outcome = Literal["answered", "shut", "nobody"]
"""What became of a survey that somebody was asked to answer: they did, or it did not open, or
nobody has said anything."""


class Answerer(Protocol):
    """Somebody who opens a link in a browser and answers the survey."""

    async def answer(self, url: str) -> Outcome:
        """Answer the survey behind this link. Is cancelled when nobody waits for it any more."""
        ...


class FormFiller:
    """Answers a survey whose page works without scripts, such as the simulator's, by itself."""

    async def answer(self, url: str) -> Outcome:
        """Choose the last of all choices, and send the form off."""
        async with httpx.AsyncClient(timeout=OPEN_SECONDS, follow_redirects=True) as web:
            try:
                page = await web.get(url)
                form = _Form()
                form.feed(page.text)
                if not form.fields:
                    return "shut"
                sent = await web.post(page.url.join(form.action or str(page.url)), data=form.fields)
            except (httpx.HTTPError, httpx.InvalidURL):
                return "nobody"
        return "answered" if sent.is_success else "shut"


class _Form(HTMLParser):
    """The fields of a page's form, each with the last value that the page offers for it."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        name = named.get("name")
        if tag == "form":
            self.action = named.get("action") or ""
        elif tag in {"input", "textarea"} and name:
            self.fields[name] = named.get("value") or ""


class Page(Struct, frozen=True):
    """What somebody who opens a link is shown."""

    status: int
    text: str


async def page(url: str) -> Page | None:
    """Open a link once, as nobody in particular; None: there is no answer, or not to the link.

    Nothing that belongs to us goes along: no token, no cookie. Redirects are followed, since the
    link of a brand's own address may lead on.
    """
    try:
        async with (
            httpx.AsyncClient(
                timeout=OPEN_SECONDS, follow_redirects=True, max_redirects=MOST_HOPS
            ) as web,
            web.stream("GET", url, headers={"Accept": "text/html"}) as answer,
        ):
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LARGEST_PAGE:
                    break
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        return None  # it is about who asks, or about the server
    return Page(answer.status_code, visible(body.decode(errors="replace")))


def visible(html: str) -> str:
    """The text of a page that one can see, without what looks like an id, on one line."""
    text = unescape(_TAG.sub(" ", _UNSEEN.sub(" ", html)))
    return " ".join(_ID_LIKE.sub("", text).split())


def is_open(seen: Page | None, good: Page | None, bad: Page | None) -> bool | None:
    """Whether a link opens, by what the good and the bad one show; None: it cannot be told."""
    if seen is None or good is None or bad is None or good == bad:
        return None
    if not httpx.codes.is_success(good.status):
        return None  # a program is not let in, whatever the link
    if seen in (good, bad):
        return seen == good
    if (seen.status == good.status) != (seen.status == bad.status):
        return seen.status == good.status
    gain = _likeness(seen, good) - _likeness(seen, bad)
    return gain > 0 if abs(gain) > _MARGIN else None


def _likeness(one: Page, other: Page) -> float:
    return SequenceMatcher(None, one.text.split(), other.text.split(), autojunk=False).ratio()
