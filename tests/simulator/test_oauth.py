"""Access tokens: who gets one, what it opens, and when it ends."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from milepost.simulator.endpoints import ENDPOINTS
from milepost.simulator.tokens import SCOPES

Customer = Any

CLIENT = ("simulator", "simulator")


def _ask(
    customer: Customer,
    scope: str,
    auth: tuple[str, str] | None = CLIENT,
    grant: str = "client_credentials",
) -> httpx.Response:
    form = {"grant_type": grant, "scope": scope}
    answer: httpx.Response = customer.web.post("/oauth2/token", data=form, auth=auth)
    return answer


def _bearer(customer: Customer, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=customer.ready.url, headers=headers, trust_env=False)


def _status(customer: Customer, scope: str, method: str, path: str, body: object = None) -> int:
    token = _ask(customer, scope).json()["access_token"]
    with _bearer(customer, token) as api:
        return api.request(method, path, json=body).status_code


def test_a_client_gets_a_token_that_opens_the_api(shared: Customer) -> None:
    """Beside the API token, which goes on to work."""
    answer = _ask(shared, "read:directories write:mailing_lists")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert told["token_type"] == "Bearer"
    assert told["expires_in"] == 3600
    assert told["scope"] == "read:directories write:mailing_lists"
    with _bearer(shared, told["access_token"]) as api:
        assert api.get("/directories").status_code == 200
        assert api.get("/whoami").status_code == 200
    assert shared.api.get("/directories").status_code == 200


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("read:mailing_lists", (200, 403)),
        ("write:mailing_lists", (403, 200)),
        ("manage:mailing_lists", (200, 200)),
        ("manage:all", (200, 200)),
        ("manage:distributions", (403, 403)),
    ],
)
def test_a_scope_opens_what_it_names(shared: Customer, scope: str, status: tuple[int, int]) -> None:
    """Reading, writing or both; what is refused has changed nothing."""
    before = shared.control("GET", "stats")["held"]["mailing_lists"]
    read = _status(shared, scope, "GET", shared.lists)
    write = _status(shared, scope, "POST", shared.lists, {"name": "scoped"})
    assert (read, write) == status
    made = shared.control("GET", "stats")["held"]["mailing_lists"] - before
    assert made == (1 if write == 200 else 0)


def test_a_search_is_reading(shared: Customer) -> None:
    """Although it is a POST."""
    body = {"filter": {"filterType": "extRef", "comparison": "eq", "value": "x"}}
    path = f"{shared.directory}/contacts/search"
    assert _status(shared, "read:directory_contacts", "POST", path, body) == 200
    assert _status(shared, "write:directory_contacts", "POST", path, body) == 403


def test_a_refused_scope_is_named(shared: Customer) -> None:
    """403 in an envelope, with what would have been needed."""
    token = _ask(shared, "read:surveys").json()["access_token"]
    with _bearer(shared, token) as api:
        answer = api.get("/directories")
    assert answer.status_code == 403
    assert "read:directories" in answer.json()["meta"]["error"]["errorMessage"]


def test_every_endpoint_but_whoami_has_its_scopes() -> None:
    """Each of them one that can be asked for."""
    for endpoint in ENDPOINTS:
        assert bool(endpoint.scopes) == (endpoint.call_class != "account"), endpoint.name
        assert set(endpoint.scopes) <= SCOPES


@pytest.mark.parametrize(
    ("auth", "grant", "scope", "status", "error"),
    [
        (None, "client_credentials", "manage:all", 401, "invalid_client"),
        (("simulator", "wrong"), "client_credentials", "manage:all", 401, "invalid_client"),
        (CLIENT, "password", "manage:all", 400, "unsupported_grant_type"),
        (CLIENT, "client_credentials", "", 400, "invalid_scope"),
        (CLIENT, "client_credentials", "manage:all read:minds", 400, "invalid_scope"),
    ],
)
def test_a_wrong_request_gets_no_token(  # noqa: PLR0917 - the cases name them
    shared: Customer,
    auth: tuple[str, str] | None,
    grant: str,
    scope: str,
    status: int,
    error: str,
) -> None:
    """In OAuth's own words."""
    answer = _ask(shared, scope, auth, grant)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert "access_token" not in answer.json()


def test_credentials_in_the_form_are_refused_with_where_they_belong(shared: Customer) -> None:
    """Since a client that sends the right ones could not tell what is wrong with them."""
    form = {"grant_type": "client_credentials", "scope": "manage:all"}
    form |= {"client_id": "simulator", "client_secret": "simulator"}
    answer = shared.web.post("/oauth2/token", data=form)
    assert answer.status_code == 401
    assert "HTTP Basic" in answer.json()["error_description"]


def test_a_missing_scope_is_called_missing(shared: Customer) -> None:
    """Not unknown."""
    assert "scope is missing" in _ask(shared, "").json()["error_description"]


@pytest.mark.parametrize("header", ["Basic !!", "Basic", "Bearer simulator", "Basic \xff"])
def test_a_malformed_header_gets_no_token(shared: Customer, header: str) -> None:
    """401, and no traceback."""
    headers = {"Authorization": header.encode("latin-1")}
    answer = shared.web.post("/oauth2/token", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401


def test_a_token_ends_with_its_time(own: Customer) -> None:
    """By the account's clock, so that nobody has to wait; another one is given then."""
    own.control("PUT", "settings", {"token_seconds": 60})
    told = _ask(own, "manage:all").json()
    assert told["expires_in"] == 60
    with _bearer(own, told["access_token"]) as api:
        assert api.get("/directories").status_code == 200
        own.control("PUT", "clock", {"advance_seconds": 61})
        answer = api.get("/directories")
    assert answer.status_code == 401
    assert answer.json()["meta"]["httpStatus"] == "401 - Unauthorized"
    assert _status(own, "manage:all", "GET", "/directories") == 200


def test_an_unknown_token_is_401(shared: Customer) -> None:
    """The API token is none for this header, either."""
    for token in ("simulator", "other"):
        with _bearer(shared, token) as api:
            assert api.get("/whoami").status_code == 401
