"""Who may call what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar, get
from litestar.routes import HTTPRoute

from milepost.admin.sessions import COOKIE, Sessions
from milepost.api.access import needs, refuse_unguarded
from milepost.model import Scope
from milepost.store import Store

PUBLIC = {
    "GET /health/live",
    "GET /health/ready",
    "GET /schema",
    "GET /schema/docs",
    "GET /schema/openapi.json",
    "GET /schema/{path:str}",
    "GET /l",
    "HEAD /l",
    "GET /l/{token:path}",
    "HEAD /l/{token:path}",
    "GET /admin/sign-in",
    "POST /admin/sign-in",
    "POST /v1/upstream/events",
}
OPEN_TO = {
    "POST /v1/links": {Scope.ISSUE},
    "POST /v1/links/batch": {Scope.ISSUE},
    "GET /v1/links": {Scope.ISSUE, Scope.READ},
    "GET /v1/links/{link_id:uuid}": {Scope.ISSUE, Scope.READ},
    "POST /v1/links/{link_id:uuid}/revoke": {Scope.ISSUE},
    "POST /v1/links/{link_id:uuid}/delivered": {Scope.ISSUE},
    "GET /v1/exports/links": {Scope.READ},
    "GET /v1/reminders/due": {Scope.ISSUE},
    "POST /v1/reminders/{link_id:uuid}/sent": {Scope.ISSUE},
    "PUT /v1/milestones/{key:str}": set[Scope](),
    "GET /v1/milestones/{key:str}": {Scope.READ},
    "GET /v1/milestones": {Scope.READ},
    "POST /v1/milestones/{key:str}/pause": set[Scope](),
    "POST /v1/milestones/{key:str}/resume": set[Scope](),
    "GET /v1/milestones/{key:str}/pool": {Scope.READ},
    "GET /v1/milestones/{key:str}/funnel": {Scope.READ},
    "GET /v1/capabilities": {Scope.READ},
    "GET /v1/capacity": {Scope.READ},
    "GET /v1/jobs": {Scope.READ},
    "GET /v1/jobs/{name:str}": {Scope.READ},
    "POST /v1/jobs/{name:str}/run": set[Scope](),
    "GET /v1/responses/{survey_id:str}/{response_id:str}": {Scope.READ},
    "GET /v1/drift": {Scope.READ},
    "POST /v1/drift/{drift_id:int}/settle": set[Scope](),
    "GET /v1/runs/{run_id:int}": {Scope.READ, Scope.SYNC},
    "GET /v1/runs/{run_id:int}/findings": {Scope.SYNC},
    "PUT /v1/registrants/{ref:path}": {Scope.SYNC},
    "GET /v1/registrants/{ref:path}": {Scope.SYNC, Scope.READ},
    "POST /v1/registrants/import": {Scope.SYNC},
    "PUT /v1/registrants/import": {Scope.SYNC},
    "GET /v1/registrants/import": {Scope.SYNC, Scope.READ},
    "POST /v1/endpoints": set[Scope](),
    "GET /v1/endpoints": {Scope.READ},
    "GET /v1/endpoints/{endpoint_id:uuid}": {Scope.READ},
    "DELETE /v1/endpoints/{endpoint_id:uuid}": set[Scope](),
    "POST /v1/endpoints/{endpoint_id:uuid}/secret": set[Scope](),
    "POST /v1/endpoints/{endpoint_id:uuid}/resume": set[Scope](),
    "POST /v1/endpoints/{endpoint_id:uuid}/test": set[Scope](),
    "GET /v1/endpoints/{endpoint_id:uuid}/messages": set[Scope](),
    "POST /v1/endpoints/{endpoint_id:uuid}/replay": set[Scope](),
    "GET /admin": {Scope.READ},
    "GET /admin/milestones/{key:str}": {Scope.READ},
    "POST /admin/milestones/{key:str}": set[Scope](),
    "GET /admin/links": {Scope.READ},
    "GET /admin/links/{link_id:uuid}": {Scope.READ},
    "GET /admin/drift": {Scope.READ},
    "POST /admin/drift": set[Scope](),
    "GET /admin/jobs": {Scope.READ},
    "GET /admin/sign-out": {Scope.READ},
    "POST /admin/sign-out": {Scope.READ},
    "GET /admin/v1/milestones/{key:str}/funnel": {Scope.READ},
    "GET /admin/v1/exports/links": {Scope.READ},
    "GET /admin/{elsewhere:path}": {Scope.READ},
}
"""The scopes besides `admin` that open each operation."""


def operations(application: Litestar) -> Iterator[tuple[str, str]]:
    """Every operation that the application itself knows, as method and path."""
    for route in application.routes:
        if isinstance(route, HTTPRoute):
            for method in sorted({m for h in route.route_handlers for m in h.http_methods}):
                yield method, route.path_format if ":" not in route.path else route.path


async def shown(path: str, key: str, sessions: Sessions) -> dict[str, Any]:
    """A key, shown as an operation wants it: the page has a session, and its forms have a token."""
    if not path.startswith("/admin"):
        return {"headers": {"Authorization": f"Bearer {key}"}}
    session = await sessions.begin(key.split("_")[1])
    form = {"token": sessions.token(session)}
    return {"headers": {"Cookie": f"{COOKIE}={session}"}, "data": form}


async def test_every_operation_opens_to_its_scopes_alone(
    application: Litestar, anybody: httpx.AsyncClient, keys: dict[Scope, str], sessions: Sessions
) -> None:
    """Each is asked without a key and with one of each scope; none is missing from the table."""
    known = {f"{method} {path}" for method, path in operations(application) if method != "OPTIONS"}
    assert PUBLIC | OPEN_TO.keys() == known
    for method, path in operations(application):
        place = (
            path.replace("{link_id:uuid}", "00000000-0000-0000-0000-000000000000")
            .replace("{endpoint_id:uuid}", "00000000-0000-0000-0000-000000000000")
            .replace("{key:str}", "landed")
            .replace("{name:str}", "sync")
            .replace("{run_id:int}", "1")
            .replace("{drift_id:int}", "1")
            .replace("{ref:path}", "ann")
            .replace("{path:str}", "nothing")
            .replace("{token:path}", "nothing")
            .replace("{elsewhere:path}", "nothing")
        )
        operation = f"{method} {path}"
        if method == "OPTIONS" and f"GET {path}" in PUBLIC:
            continue
        without = await anybody.request(method, place)
        # Where a form is wanted, nothing was sent.
        is_open = without.status_code in {200, 404, 415}
        assert (operation, operation in PUBLIC) == (operation, is_open)
        if operation in PUBLIC:
            continue
        assert (operation, 401) == (operation, without.status_code)
        for scope in Scope:
            answer = await anybody.request(
                method, place, **await shown(path, keys[scope], sessions)
            )
            may = scope is Scope.ADMIN or scope in OPEN_TO.get(operation, set())
            may = may and method != "OPTIONS"
            assert (operation, scope, may) == (operation, scope, answer.status_code != 403)
            assert (operation, scope, False) == (operation, scope, answer.status_code >= 500)


def test_a_handler_that_names_no_scopes_is_refused() -> None:
    """The application is not made then."""

    @get("/forgotten")
    async def forgotten() -> None:
        """Say nothing of scopes."""

    with pytest.raises(TypeError, match="neither needs"):
        refuse_unguarded(Litestar([forgotten], openapi_config=None, logging_config=None))


def test_a_handler_with_a_doorkeeper_of_its_own_is_refused() -> None:
    """The innermost hook is the only one that is called: it would let everybody in."""

    @get("/open", opt=needs(Scope.ADMIN), before_request=lambda _: None)
    async def opened() -> None:
        """Say that scopes are needed."""

    with pytest.raises(TypeError, match="before_request of its own"):
        refuse_unguarded(Litestar([opened], openapi_config=None, logging_config=None))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer mp_",
        "Bearer mp_00000000",
        "Bearer mp_00000000_" + "0" * 64,
        "Basic bXA6bXA=",
        "Bearer mp_0000\x000_0",
        "Bearer mp_" + "0" * 10_000 + "_0",
        "Bearer \xe4\xf6",
    ],
    ids=repr,
)
async def test_a_key_that_is_none_is_answered_401(
    anybody: httpx.AsyncClient, header: str | None
) -> None:
    """Missing, malformed and unknown keys get the same problem, and are told how to send one."""
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = await anybody.get("/v1/milestones", headers=headers)
    assert (401, "Bearer") == (answer.status_code, answer.headers["WWW-Authenticate"])
    assert "application/problem+json" == answer.headers["Content-Type"]
    assert "unauthorized" == answer.json()["code"]


async def test_a_wrong_secret_is_answered_401(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """The id of a key opens nothing."""
    wrong = keys[Scope.ADMIN][:-1] + ("0" if keys[Scope.ADMIN][-1] != "0" else "1")
    answer = await anybody.get("/v1/milestones", headers={"Authorization": f"Bearer {wrong}"})
    assert 401 == answer.status_code


async def test_whoever_reads_sees_no_personal_data(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """Names, addresses and attributes are masked for `read`, and whole for `sync`."""
    whole = await anybody.get(
        "/v1/registrants/ann", headers={"Authorization": f"Bearer {keys[Scope.SYNC]}"}
    )
    assert "ann@example.com" == whole.json()["details"]["email"]
    masked = await anybody.get(
        "/v1/registrants/ann", headers={"Authorization": f"Bearer {keys[Scope.READ]}"}
    )
    details = masked.json()["details"]
    assert ("a…", "A…", {"tier": "…"}) == tuple(
        details[name] for name in ("email", "first_name", "attributes")
    )
    assert "ann@" not in masked.text


async def test_urls_are_for_whoever_asked_for_them(
    anybody: httpx.AsyncClient, store: Store, keys: dict[Scope, str]
) -> None:
    """`issue` sees its own links, `read` all without URLs, both together not more, `admin` all."""
    both = (await store.keys.create("both", [Scope.ISSUE, Scope.READ]))[1]
    everybody = {**{scope.value: key for scope, key in keys.items()}, "both": both}
    ids = {}
    for name in ("issue", "both"):
        event = {"event_id": name, "milestone": "landed", "registrant": "ann"}
        headers = {"Authorization": f"Bearer {everybody[name]}"}
        ids[name] = (await anybody.post("/v1/links", json=event, headers=headers)).json()["id"]
    async with store.connections.path() as database:
        await database.execute(
            b"UPDATE links SET state = 'issued', url = 'https://l/' || event_id, lookup_id = 'x',"
            b" expires_at = now(), issued_at = now(), published = 'personal', lane = 'direct',"
            b" due_at = NULL, token = NULL, short_url = NULL"
        )
    mine, theirs = ("https://l/issue", "https://l/both")
    for name, urls, page in (
        ("issue", [mine, "404"], [mine]),
        ("both", [None, theirs], [None, None]),
        ("read", [None, None], [None, None]),
        ("admin", [mine, theirs], [mine, theirs]),
    ):
        headers = {"Authorization": f"Bearer {everybody[name]}"}
        seen = []
        for which in ("issue", "both"):
            answer = await anybody.get(f"/v1/links/{ids[which]}", headers=headers)
            seen.append("404" if answer.status_code == 404 else answer.json()["url"])
        assert (name, urls) == (name, seen)
        listed = (await anybody.get("/v1/links", headers=headers)).json()["links"]
        assert (name, page) == (name, [link["url"] for link in listed])
