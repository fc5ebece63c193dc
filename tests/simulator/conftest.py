"""A simulator on a real socket, and a client that speaks to it as a customer's program would."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from milepost.simulator import Config, Ready, running


@dataclass
class Customer:
    """A client of one simulator: the API with its token, the control API, and a browser."""

    ready: Ready
    api: httpx.Client
    web: httpx.Client
    stop: Callable[[], None]
    made: int = 0

    @property
    def directory(self) -> str:
        """The path of the one directory."""
        return f"/directories/{self.ready.directory_id}"

    def result(self, method: str, path: str, body: object = None) -> Any:
        """The result of a call that must succeed."""
        answer = self.api.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json().get("result")

    def error(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str]]:
        """Status and error of a call that must not."""
        answer = self.api.request(method, path, json=body)
        return answer.status_code, answer.json()["meta"]["error"]

    def control(self, method: str, path: str, body: object = None) -> Any:
        """What the control API answers."""
        answer = self.web.request(method, f"/control/{path}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def mailing_list(self) -> str:
        """The path of a mailing list made just now."""
        self.made += 1
        body = {"name": f"list {self.made}"}
        return f"{self.directory}/mailinglists/{self.result('POST', self.lists, body)['id']}"

    @property
    def lists(self) -> str:
        """The path of the mailing lists."""
        return f"{self.directory}/mailinglists"

    def add(self, path: str, **body: object) -> tuple[str, str]:
        """A contact added to a list: its id and its lookup id."""
        self.made += 1
        body.setdefault("email", f"person{self.made}@example.com")
        result = self.result("POST", f"{path}/contacts", body)
        return result["id"], result["contactLookupId"]

    def distribute(self, path: str, **more: object) -> str:
        """A distribution on a list: its id."""
        body = {
            "surveyId": self.ready.survey_id,
            "linkType": "Individual",
            "description": "ours",
            "action": "CreateDistribution",
            "mailingListId": path.rsplit("/", 1)[1],
        }
        return str(self.result("POST", "/distributions", body | more)["id"])

    def elements(self, path: str) -> list[dict[str, Any]]:
        """The first page of a paged answer."""
        found: list[dict[str, Any]] = self.result("GET", path)["elements"]
        return found

    def links(self, distribution: str) -> list[str]:
        """The links of a distribution, of its first page."""
        path = f"/distributions/{distribution}/links?surveyId={self.ready.survey_id}"
        return [str(one["link"]) for one in self.elements(path)]

    def link(self, **contact: object) -> str:
        """A personal link for a contact in a list of its own."""
        path = self.mailing_list()
        self.add(path, **contact)
        return self.links(self.distribute(path))[0]

    def open(self, link: str) -> str:
        """Open a link that must open: the session that its form names."""
        page = self.web.get(link)
        assert page.status_code == 200, page.text
        found = re.search(r'name="session" value="(FS_\w{15})"', page.text)
        assert found is not None, page.text
        return found[1]

    def send(self, link: str, session: str, **answers: str) -> httpx.Response:
        """Send the form off."""
        return self.web.post(link, data={"session": session, "QID1": "5"} | answers)

    def answer(self, link: str, **answers: str) -> dict[str, Any]:
        """Open a link, answer, and read the response's values back."""
        sent = self.send(link, self.open(link), **answers)
        assert state(sent) == "thanks"
        entry = self.control("GET", "journal")["entries"][-1]
        path = f"/surveys/{self.ready.survey_id}/responses/{entry['ids']['response']}"
        values: dict[str, Any] = self.result("GET", path)["values"]
        return values


def state(page: httpx.Response) -> str:
    """What a page says of itself."""
    found = re.search(r'data-state="(\w+)"', page.text)
    assert found is not None, page.text
    return found[1]


@pytest.fixture(name="state", scope="session")
def _state() -> Callable[[httpx.Response], str]:
    """How a page tells its state."""
    return state


Start = Callable[..., Customer]


def _customer(config: Config) -> Customer:
    """A simulator with its clients; `stop` ends it, once or again."""
    stack = ExitStack()
    ready = stack.enter_context(running(config))
    api = httpx.Client(
        base_url=ready.url, headers={"X-API-TOKEN": "simulator"}, timeout=10, trust_env=False
    )
    web = httpx.Client(base_url=ready.origin, timeout=10, trust_env=False)
    return Customer(ready, stack.enter_context(api), stack.enter_context(web), stack.close)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts simulators of a test's own, without limits unless it asks for some."""
    with ExitStack() as stack:

        def begin(**config: Any) -> Customer:
            customer = _customer(Config(**({"limits": "none"} | config)))
            stack.callback(customer.stop)
            return customer

        yield begin


@pytest.fixture(scope="session")
def shared() -> Iterator[Customer]:
    """One simulator for all tests that leave its switches alone."""
    customer = _customer(Config(limits="none"))
    yield customer
    customer.stop()


@pytest.fixture
def own(start: Start) -> Customer:
    """A simulator of the test's own, whose switches it may turn."""
    return start()
