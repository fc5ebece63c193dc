"""The platform in its three forms: the simulator, what was recorded of it, and a live account.

A live account is used where `MILEPOST_LIVE_URL`, `MILEPOST_LIVE_TOKEN` and `MILEPOST_LIVE_SURVEY`
name one (an active survey), and `MILEPOST_LIVE_DIRECTORY` another directory than the default one.
Without them there is no test for it, instead of one that is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.upstream.conftest import Origin, origin, origins

from milepost.simulator import Config, Ready, running
from milepost.upstream import (
    AddedContact,
    ContactFields,
    NotFound,
    Token,
    TransactionFields,
    Upstream,
)

__all__ = ["origin", "origins"]

OURS = Path(__file__).parent / "recorded"
_SHARED = Path(__file__).parents[3] / "shared" / "upstream" / "recorded"
_FOLDERS = [OURS, _SHARED] if _SHARED.is_dir() else [OURS]
_NEEDED = ("URL", "TOKEN", "SURVEY")

FIELDS = ("venue", "milepost_ref")
"""What the simulated survey's flow declares."""


@dataclass(frozen=True)
class Recordings:
    """Answers that the platform gave; those of the project stand in for one that is missing."""

    folder: Path

    def read(self, name: str) -> list[Any]:
        """The answers of one file."""
        path = self.folder / name
        read = json.loads((path if path.exists() else OURS / name).read_bytes())
        return read if isinstance(read, list) else [read]

    def links(self) -> list[str]:
        """Personal links as they were seen over the years."""
        name = "personal_links.tsv"
        found = [folder / name for folder in (self.folder, self.folder.parent, OURS)]
        path = next(path for path in found if path.exists())
        return [row.split("\t")[1] for row in path.read_text(encoding="utf-8").splitlines()[1:]]


@pytest.fixture(params=_FOLDERS, ids=["ours", "shared"][: len(_FOLDERS)])
def recorded(request: pytest.FixtureRequest) -> Recordings:
    """The recordings of the project, and the full ones where they are at hand."""
    return Recordings(request.param)


@dataclass
class Place:
    """An account, and what a test made in it, which goes when the test is over.

    Everything is named after the run, so that what a test could not take away can be found.
    """

    upstream: Upstream
    directory: str
    survey: str
    is_live: bool
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    _removals: AsyncExitStack = field(default_factory=AsyncExitStack)

    def name(self, what: str) -> str:
        """The name of something that this run makes."""
        return f"milepost contract {self.run} {what}"

    def person(self, who: str, **more: Any) -> ContactFields:
        """Somebody who is nobody."""
        alias = f"milepost-contract-{self.run}-{who}"
        fields = {"email": f"{alias}@example.com", "ref": alias, **more}
        return ContactFields(first_name="Milepost", last_name="Contract", **fields)

    def undo(self, remove: Callable[..., Awaitable[None]], *of: object) -> None:
        """Let something be taken away at the end if it is still there, the last made first."""

        async def take_away() -> None:
            """Take it away."""
            with suppress(NotFound):
                await remove(*of)

        self._removals.push_async_callback(take_away)

    async def mailing_list(self, what: str = "list") -> str:
        """A mailing list."""
        made = await self.upstream.create_mailing_list(self.directory, self.name(what))
        self.undo(self.upstream.delete_mailing_list, self.directory, made)
        return made

    async def add(self, list_id: str, who: str, **more: Any) -> AddedContact:
        """A contact in a list."""
        added = await self.upstream.add_list_contact(
            self.directory, list_id, self.person(who, **more)
        )
        self.undo(self.upstream.delete_contact, self.directory, added.contact_id)
        return added

    @staticmethod
    def visit(contact_id: str, list_id: str, **data: str) -> TransactionFields:
        """Something that somebody in a list did a day ago."""
        at = in_a_day() - timedelta(days=2)
        return TransactionFields(contact_id=contact_id, list_id=list_id, at=at, data=data)

    async def batch(self, *transaction_ids: str) -> str:
        """A batch of transactions."""
        made = await self.upstream.create_batch(self.directory, transaction_ids)
        self.undo(self.upstream.delete_batch, self.directory, made)
        return made

    async def transaction(self, who: str) -> tuple[str, str]:
        """A transaction of a contact in a list of its own: the ids of both."""
        list_id = await self.mailing_list(f"list of {who}")
        added = await self.add(list_id, who)
        wanted = {"one": self.visit(added.contact_id, list_id, venue=who)}
        answer = await self.upstream.create_transactions(self.directory, wanted)
        made = answer.created["one"]
        self.undo(self.upstream.delete_transaction, self.directory, made)
        return added.contact_id, made

    async def distribution(
        self, list_id: str, *, expires_at: datetime | None = None, contact_id: str | None = None
    ) -> str:
        """A distribution on a list, for a day where nothing else is said."""
        made = await self.upstream.create_distribution(
            self.survey,
            list_id,
            self.name("distribution"),
            expires_at or in_a_day(),
            contact_id=contact_id,
        )
        self.undo(self.upstream.delete_distribution, made)
        return made

    async def found(self, look: Callable[[], AsyncIterator[Any]]) -> list[Any]:
        """What a look finds: at the simulator the first one, at an account within a minute.

        How soon a search and a listing know of what was just made is not known.
        """
        for _ in range(20 if self.is_live else 1):
            if hits := [each async for each in look()]:
                return hits
            if self.is_live:
                await asyncio.sleep(3)  # there is no event to wait for
        return []

    async def clear(self) -> None:
        """Take away what was made. What cannot be is told as the test's error."""
        await self._removals.aclose()


def in_a_day() -> datetime:
    """A moment in whole seconds, as the platform keeps them."""
    return (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """An account of the test's own, without limits."""
    with running(Config(limits="none", declared_fields=FIELDS)) as ready:
        yield ready


@pytest.fixture
async def upstream(simulator: Ready) -> AsyncIterator[Upstream]:
    """A client of that account."""
    async with Upstream(simulator.url, Token("simulator"), deadline=2) as client:
        yield client


@pytest.fixture
async def simulated(simulator: Ready, upstream: Upstream) -> AsyncIterator[Place]:
    """The simulator."""
    place = Place(upstream, simulator.directory_id, simulator.survey_id, is_live=False)
    yield place
    await place.clear()


@pytest.fixture(params=["simulator"] + ["live"] * ("MILEPOST_LIVE_URL" in os.environ))
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """The simulator, and a live account where one is given."""
    if request.param == "simulator":
        ready = request.getfixturevalue("simulator")
        url, token, survey = ready.url, "simulator", ready.survey_id
    else:
        url, token, survey = (os.environ[f"MILEPOST_LIVE_{name}"] for name in _NEEDED)
    is_live = request.param == "live"
    async with Upstream(url, Token(token)) as upstream:
        directory = os.environ.get("MILEPOST_LIVE_DIRECTORY") if is_live else None
        directory = directory or next(
            each.directory_id for each in await upstream.directories() if each.is_default
        )
        place = Place(upstream, directory, survey, is_live=is_live)
        yield place
        await place.clear()


@dataclass(frozen=True)
class Wire:
    """The simulator's API without a client of ours between, and its control API."""

    ready: Ready
    api: httpx.AsyncClient
    web: httpx.AsyncClient

    async def answer(self, method: str, path: str, body: object = None) -> Any:
        """The whole answer of a call, decoded."""
        return (await self.api.request(method, path, json=body)).json()

    async def result(self, method: str, path: str, body: object = None) -> Any:
        """The result of a call that must succeed."""
        answer = await self.api.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    async def switch(self, **settings: object) -> None:
        """Turn switches."""
        answer = await self.web.put("/control/settings", json=settings)
        assert answer.status_code == 200, answer.text

    async def fault(self, kind: str, call_class: str, moment: str = "after") -> None:
        """Let the next call of a class go wrong."""
        body = {"kind": kind, "call_class": call_class, "moment": moment, "times": 1}
        answer = await self.web.post("/control/faults", json=body)
        assert answer.status_code == 201, answer.text


@pytest.fixture
async def wire(simulator: Ready) -> AsyncIterator[Wire]:
    """The wire of the test's own simulator."""
    headers = {"X-API-TOKEN": "simulator"}
    async with (
        httpx.AsyncClient(base_url=simulator.url, headers=headers, trust_env=False) as api,
        httpx.AsyncClient(base_url=simulator.origin, trust_env=False) as web,
    ):
        yield Wire(simulator, api, web)


@pytest.fixture
async def reader(origin: Origin) -> AsyncIterator[Upstream]:
    """A client of an origin that answers as it is told."""
    async with Upstream(origin.url, Token("s3cret-token"), deadline=2) as client:
        yield client
