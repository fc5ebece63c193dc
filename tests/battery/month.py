"""A month in a town: what customers do with their links, and what is remembered of it.

::

    Month           a town with customers at its links, and a postman
        Link        what a customer holds; a deed is done with it, once or in several goes
        Postman     takes in the platform's calls about responses: some of them he loses

Whatever is opened or sent off goes through the survey's own page, over HTTP. What somebody does
that must be flagged is a *plant*: it is remembered at once, by the session that it was done in. All
else that is to be counted is counted by the platform (`GET /control/sessions`), and held against
what Milepost says in `month_verdicts.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct
from tests.battery.days import (
    BEGINS,
    DAY,
    FORM,
    LONG_WAITS,
    NIGHT,
    Landing,
    Milestone,
    Told,
    Town,
    elements,
    state_of,
)
from tests.battery.load import SECRET

from milepost.payload import REFERENCE_FIELD, seal
from milepost.personal_link import parse

EVENTS_KEY: Final = "a key that the platform signs its calls with"

Deeds = Mapping[str, float]
"""How many of so many customers do what: the names of methods of `Month`."""

PERSONAL: Final[Deeds] = {
    "ignore": 41,
    "leave": 12,
    "answer": 28,
    "come_back": 7,
    "answer_twice": 4,
    "share": 3,
    "alter": 2,
    "paste": 3,
}

PLAIN: Final[Deeds] = {
    "ignore": 48,
    "leave": 10,
    "answer": 28,
    "come_back": 4,
    "answer_twice": 3,
    "share": 2,
    "alter": 2,
    "paste": 2,
    "strip": 1,
}

HURRIED: Final = 0.1
"""What part of those with a ready link answer before its data can have been told."""

AT_ONCE: Final = 0.6
"""What part of the others come at once."""

LOST: Final = 0.25
TWICE: Final = 0.05
DELAYED: Final = 0.1
"""What part of the calls about personal links' responses come never, twice, and a day late. Of
those about plain links none is lost: the platform tells of them in no other way."""

RECENT: Final = 200
"""Of so many links the references are about."""

LOOK: Final = timedelta(minutes=20)
"""After this time every job that is due more often than once an hour is due again."""

LISTED: Final = timedelta(hours=73)
"""A link that the platform does not list is missed when it is older than three days."""

SENT: Final = 0.8
"""What part of the links the app says to have delivered."""


class Link(Struct, frozen=True):
    """What a customer holds."""

    told: Told
    is_plain: bool
    """It is the survey's plain link with a reference, and no personal one."""

    @property
    def event_id(self) -> str:
        """Whose link it is."""
        return self.told.event_id

    def dice(self, of: str) -> random.Random:
        """What is drawn for this link, whoever else is about: the same each time."""
        return random.Random(f"{of} {self.event_id}")  # noqa: S311  (see above)


class Plant(Struct, frozen=True):
    """What somebody did that must be flagged."""

    kind: str
    """Of drift."""
    of: str
    """The event by whose link it was done, or by what was made of it; or who it was done to."""


Deed = Callable[[Link], Awaitable[None]]


class Postman:
    """A web server to which the platform's calls about completed responses go."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[bytes] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._receive, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/responses"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: *(\d+)", head)
        self._letters.put_nowait(await reader.readexactly(int(length[1]) if length else 0))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def take(self, count: int) -> list[bytes]:
        """So many letters; there must be no more."""
        async with asyncio.timeout(60):
            letters = [await self._letters.get() for _ in range(count)]
        assert self._letters.empty(), "a response was told of that nobody has sent off"
        return letters


@dataclass
class Month:
    """What goes on at the links of a town, and all that is known of it.

    Attributes:
        later_days: Who does not come at once comes within so many days, and so does who goes on
            with what they began.
        links: Those for which the caller was given a URL, by event id.
        again: Events whose caller was given the link of an earlier one.
        alone: Links that nobody does anything with.
        urls: Where a link led whoever opened it, by event id.
        sessions: By whose link, or by what was made of it, a session was begun: the event's id.
        answered: Sessions that were sent off, in their order.
        plants: By the session of the response, or by lookup id.
        clicked: Events whose short URL was opened by a person.
        delivered: Events whose caller said that the link had been delivered.
        deeds: How often what was done.
        letters: What became of the platform's calls.
    """

    on: Town
    postman: Postman
    later_days: float
    links: dict[str, Link] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    alone: list[Link] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)
    plants: dict[str, Plant] = field(default_factory=dict)
    clicked: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)
    deeds: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    _due: list[tuple[datetime, Link, Deed]] = field(default_factory=list)
    _delayed: list[tuple[datetime, bytes]] = field(default_factory=list)

    # --- days -----------------------------------------------------------------------------------

    async def subscribe(self) -> None:
        """Have the platform tell the postman of completed responses."""
        with self.on.browser() as web:
            body = {
                "topics": f"surveyengine.completedResponse.{self.on.platform.survey_id}",
                "publicationUrl": self.postman.url,
                "encrypt": False,
                "sharedKey": EVENTS_KEY,
            }
            web.post("eventsubscriptions", json=body).raise_for_status()

    async def live(self, day: Sequence[Landing], *, milestones: Iterable[Milestone] = ()) -> None:
        """Live through a day, from whose first minute on some milestones are other ones."""
        begins = BEGINS + self.on.day * DAY
        for milestone in milestones:
            await self.on.register(milestone)
        parts = len(self.on.hours)
        landed = {
            hour: day[len(day) * number // parts : len(day) * (number + 1) // parts]
            for number, hour in enumerate(self.on.hours)
        }
        for hour in sorted({*landed, max(NIGHT)}):
            self.on.travel(begins + timedelta(hours=hour))
            await self.on.work()
            known = set(self.on.told)
            await self.on.happen(landed.get(hour, ()))
            await self._hold([one for key, one in self.on.told.items() if key not in known])
            await self.on.drain()
            await self._do_what_is_due()
        self.on.day += 1

    async def rest(self) -> None:
        """Let days go by without landings, until all was done, and was told of; then look well."""
        while self._due or self._delayed:
            await self._wait(DAY)
        await self._wait(LISTED)
        await self.on.call("POST", "/v1/jobs/reconcile/run", {"options": {"thorough": True}})
        await self._wait(LOOK)

    async def _wait(self, time: timedelta) -> None:
        self.on.travel(self.on.now + time)
        await self.on.work()
        await self.on.drain()
        await self._do_what_is_due()

    async def _hold(self, told: Sequence[Told]) -> None:
        """Hand out what callers were told, and draw what is done with it."""
        plain = {one.key: one.definition.get("route") == "anonymous" for one in self.on.milestones}
        hurried, delivered = list[Link](), list[Told]()
        for one in sorted(told, key=lambda one: one.event_id):
            if one.url is None:
                continue
            if one.rule == "once":
                self.again.add(one.event_id)  # who holds the link does with it what they do
                continue
            link = self.links[one.event_id] = Link(one, plain[one.milestone])
            dice = link.dice("what comes of it")
            if dice.random() < SENT:
                delivered.append(one)
            if one.lane == "ready" and not link.is_plain and dice.random() < HURRIED:
                hurried.append(link)
                continue
            of = PLAIN if link.is_plain else PERSONAL
            (deed,) = dice.choices(list(of), list(of.values()))
            if one.rule in LONG_WAITS:
                deed = "ignore"  # whoever opened it would be shown a page that waits, for seconds
            self.deeds[deed] += 1
            if deed == "ignore":
                self.alone.append(link)
            else:
                self._later(link, getattr(self, deed), at_once=dice.random() < AT_ONCE)
        await self._deliver(delivered)
        self.deeds["hurry"] += len(hurried)
        await self._go([(link, self.hurry) for link in hurried])

    def _later(self, link: Link, deed: Deed, *, at_once: bool = False) -> None:
        wait = 0.0 if at_once else self.later_days * link.dice(deed.__name__).random()
        self._due.append((self.on.now + wait * DAY, link, deed))

    async def _do_what_is_due(self) -> None:
        due = [(link, deed) for at, link, deed in self._due if at <= self.on.now]
        self._due = [one for one in self._due if one[0] > self.on.now]
        await self._go(due)
        letters = [letter for at, letter in self._delayed if at <= self.on.now]
        self._delayed = [one for one in self._delayed if one[0] > self.on.now]
        await self._bring(letters)

    async def _go(self, deeds: Sequence[tuple[Link, Deed]]) -> None:
        """Do deeds, and have what came of them told: of plain links' responses to the last one."""
        for is_plain in (False, True):
            before = len(self.answered)
            await self.on.each(
                [one for one in deeds if one[0].is_plain is is_plain], lambda one: one[1](one[0])
            )
            letters = await self.postman.take(len(self.answered) - before)
            brought = []
            for letter in letters:
                drawn = 1.0 if is_plain else self.on.dice.random()
                if drawn < LOST:
                    self.letters["lost"] += 1
                elif drawn < LOST + DELAYED:
                    self.letters["delayed"] += 1
                    self._delayed.append((self.on.now + DAY, letter))
                else:
                    brought += [letter] * (1 + (self.on.dice.random() < TWICE))
            await self._bring(brought)

    async def _bring(self, letters: Sequence[bytes]) -> None:
        self.letters["brought"] += len(letters)

        async def bring(letter: bytes) -> None:
            """Bring one."""
            answer = await self.on.over(self.on.lines, "POST", "/v1/upstream/events", FORM, letter)
            assert 200 <= answer.status < 300, answer

        await self.on.each(letters, bring)

    async def _deliver(self, told: Sequence[Told]) -> None:
        """Say of links that they were delivered, as the app does."""

        async def deliver(one: Told) -> None:
            """Say it of one."""
            await self.on.call("POST", f"/v1/links/{one.id}/delivered")
            self.delivered.add(one.event_id)

        await self.on.each(told, deliver)

    def meddle(self, times: int) -> None:
        """Somebody at the platform puts people into our lists, and takes others out of them.

        These have but one link there, and leave it alone.
        """
        left = (one.told for one in self.alone if one.told.lane == "direct" and not one.is_plain)
        alone = {told.ref: parse(told.url or "") for told in left if "_CGC_" in (told.url or "")}
        with self.on.browser() as web:
            (directory,) = elements(web, "directories")
            people = f"directories/{directory['directoryId']}"
            for ref, link in itertools.islice(alone.items(), times):
                path = f"distributions/{link.distribution_id}?surveyId={link.survey_id}"
                stands_on = web.get(path).raise_for_status().json()["result"]["recipients"]
                members = f"{people}/mailinglists/{stands_on['mailingListId']}/contacts"
                stranger = {"email": f"somebody-beside-{ref}@example.com"}
                made = web.post(members, json=stranger).raise_for_status().json()["result"]
                self.plants[made["contactLookupId"]] = Plant("membership-without-link", ref)
                wanted = {"filterType": "extRef", "comparison": "eq", "value": ref}
                found = web.post(f"{people}/contacts/search", json={"filter": wanted})
                (contact,) = found.raise_for_status().json()["result"]["elements"]
                web.delete(f"{members}/{contact['contactId']}").raise_for_status()
                self.plants[link.lookup_id] = Plant("link-without-membership", ref)

    # --- what customers do ----------------------------------------------------------------------

    async def leave(self, link: Link) -> None:
        """Somebody looks at the survey, and leaves."""
        if (url := await self._way(link)) is not None:
            await self._open(link, url)

    async def answer(self, link: Link) -> None:
        """Somebody answers."""
        if (url := await self._way(link)) is not None:
            await self._answer(link, url)

    async def hurry(self, link: Link) -> None:
        """Somebody is there before the data of their link are: nothing tells them apart."""
        if (url := await self._way(link)) is not None:
            await self._answer(link, url, kind="early-response")

    async def come_back(self, link: Link) -> None:
        """Somebody begins, and goes on another day."""
        url = await self._way(link)
        if url is None or (session := await self._open(link, url)) is None:
            return

        async def go_on(link: Link) -> None:
            """Send it off."""
            # By a personal link they come to where they were; by a plain one the browser knows.
            again = session if link.is_plain else await self._open(link, url)
            assert again == session
            await self._send(link, url, session)

        self._later(link, go_on)

    async def answer_twice(self, link: Link) -> None:
        """Somebody answers, and comes again: a personal link is refused then, a plain one opens."""
        url = await self._way(link)
        if url is None or not await self._answer(link, url):
            return

        async def again(link: Link) -> None:
            """Come again."""
            if link.is_plain:
                await self._answer(link, url, kind="second-response")
            else:
                assert await self._open(link, url, shown="taken") is None

        self._later(link, again)

    async def share(self, link: Link) -> None:
        """A friend answers first, by the link that they were sent, and its owner after them."""
        url = await self._way(link)
        if url is None or (mine := await self._open(link, url)) is None:
            return
        if link.is_plain:
            await self._answer(link, url)
        else:
            assert mine == await self._open(link, url)
            await self._send(link, url, mine)

        async def answer_too(link: Link) -> None:
            """Send off what was begun before the friend came."""
            if link.is_plain:
                await self._send(link, url, mine, kind="second-response")
            else:
                await self._send(link, url, mine, shown="taken")

        self._later(link, answer_too)

    async def alter(self, link: Link) -> None:
        """Somebody changes a letter of what their link names: it opens for nobody, or is forged."""
        if (url := await self._way(link)) is None:
            return
        name = rf"{REFERENCE_FIELD}=[\w-]{{7}}" if link.is_plain else r"C(?:GC|TR)_\w{7}"
        found = re.search(name, url)
        assert found is not None
        at = found.end()
        altered = url[:at] + ("b" if url[at] == "a" else "a") + url[at + 1 :]
        if link.is_plain:
            await self._answer(link, altered, kind="foreign-response")
        else:
            assert await self._open(link, altered, shown="incorrect") is None

    async def paste(self, link: Link) -> None:
        """Somebody puts the reference of another link into theirs.

        Into a personal one that of somebody else's, or of any plain link; into a plain one that of
        a personal link: who puts in another plain link's has opened that one, and nobody can tell.
        """
        url = await self._way(link)
        recent = itertools.islice(reversed(self.links.values()), RECENT)
        others = [one for one in recent if self._is_foreign(one, to=link)]
        if url is None or not others:
            return
        other = link.dice("whose").choice(others)
        pasted = f"{REFERENCE_FIELD}={self.reference(other)}"
        # Of a plain link nobody can tell of which milestone it is, if not by its own reference.
        is_near = link.is_plain or other.told.milestone == link.told.milestone
        await self._answer(
            link,
            f"{_bare(url)}?{pasted}" if link.is_plain else f"{url}&{pasted}",
            kind="foreign-response" if is_near else "other-milestone",
        )

    def _is_foreign(self, one: Link, *, to: Link) -> bool:
        if one.is_plain:
            return not to.is_plain and one.event_id in self.urls
        # Of two personal links of one person history alone tells which it was (docs/roadmap.md).
        return one.told.ref != to.told.ref

    async def strip(self, link: Link) -> None:
        """Somebody leaves the reference out, and answers by the survey's bare link."""
        if (url := await self._way(link)) is not None:
            await self._answer(link, _bare(url), kind="foreign-response")

    def reference(self, link: Link) -> str:
        """What stands in the responses of a link, unless somebody has meddled with it.

        That of a plain link is known once somebody has opened it.
        """
        if not link.is_plain:
            is_short = link.told.lane == "deferred"
            return seal(link.told.id, SECRET.encode(), is_short=is_short)
        (reference,) = parse_qs(urlsplit(self.urls[link.event_id]).query)[REFERENCE_FIELD]
        return reference

    async def _way(self, link: Link) -> str | None:
        """The address of the survey for who opens what they were given; None: it leads nowhere."""
        url = link.told.url or ""
        if not urlsplit(url).path.startswith("/l/"):
            self.urls[link.event_id] = url
            return url
        found, _ = await self.on.led(urlsplit(url).path)
        self.clicked.add(link.event_id)
        if found is not None:
            self.urls[link.event_id] = found
        return found

    async def _answer(self, link: Link, url: str, *, kind: str | None = None) -> bool:
        session = await self._open(link, url)
        if session is not None:
            await self._send(link, url, session, kind=kind)
        return session is not None

    async def _open(self, link: Link, url: str, *, shown: str = "open") -> str | None:
        """Open a link; returns its session, if it does open and is not too late."""
        page = await self.on.page("GET", url)
        assert state_of(page) in (shown, "expired"), (link, url, page)
        found = re.search(rb'name="session" value="(FS_\w{15})"', page.body)
        if found is None:
            return None
        session = found[1].decode()
        assert link.event_id == self.sessions.setdefault(session, link.event_id)
        return session

    async def _send(
        self, link: Link, url: str, session: str, *, shown: str = "thanks", kind: str | None = None
    ) -> None:
        """Send a form off."""
        page = await self.on.page("POST", url, f"session={session}&QID1=5".encode())
        assert state_of(page) == shown, (link, url, page)
        if shown == "thanks":
            self.answered.append(session)
            if kind is not None:
                self.plants[session] = Plant(kind, link.event_id)


def _bare(url: str) -> str:
    return url.partition("?")[0]
