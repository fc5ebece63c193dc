"""The API under `/API/v3`: the life of a call.

A call is authorised, counted against its limits, may meet a fault, is answered by its endpoint
(writes go through `Account.write`, which returns when they are durable), waits out the latency, may
meet a fault again, and leaves in an envelope.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

from litestar import Request, Response, route
from litestar.handlers import HTTPRouteHandler

from milepost.simulator.account import Account
from milepost.simulator.call import Call, Endpoint
from milepost.simulator.endpoints import ENDPOINTS
from milepost.simulator.faults import HTML, Fault, Moment, form_of, spoil
from milepost.simulator.wire import API_ROOT, Refusal, failure, success

TOKEN = b"simulator"
"""The one API token there is; it may do everything."""

_ENDPOINTS = frozenset(form_of(endpoint.name) for endpoint in ENDPOINTS)


def check_fault(fault: Fault) -> None:
    """Refuse a fault that waits for an endpoint which does not exist.

    Raises:
        ValueError: With the endpoint.
    """
    if fault.endpoint is not None and form_of(fault.endpoint) not in _ENDPOINTS:
        raise ValueError(
            f"no endpoint {fault.endpoint!r}; it is a method and a path under {API_ROOT}, such as "
            "GET /distributions/{distribution}/links"
        )


def refused(account: Account, refusal: Refusal) -> Response[bytes]:
    """A refusal as it leaves."""
    return Response(
        failure(refusal, account.notice),
        status_code=refusal.status,
        media_type="application/json",
        headers=refusal.headers,
    )


def _authorise(account: Account, endpoint: Endpoint, request: Request[Any, Any, Any]) -> None:
    """Let the API token pass, and an access token that has a scope for this endpoint."""
    bearer = b""
    for name, value in request.scope["headers"]:
        if name == b"x-api-token":
            if value == TOKEN:
                return
            raise Refusal(401, "Unrecognized X-API-TOKEN.", "DCD_7")
        if name == b"authorization":
            bearer = value
    kind, _, token = bearer.decode("latin-1").partition(" ")
    if kind.lower() != "bearer":
        raise Refusal(401, "Expected authorization in headers, but none provided.", "ATP_2")
    scopes = account.tokens.scopes_of(token.strip())
    if scopes is None:
        raise Refusal(401, "The access token is unknown or has expired.")
    if endpoint.scopes and scopes.isdisjoint(endpoint.scopes):
        raise Refusal(403, f"The access token needs the scope {' or '.join(endpoint.scopes[:2])}.")


def _query(request: Request[Any, Any, Any]) -> dict[str, str]:
    text = request.scope["query_string"]
    try:
        return dict(parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise Refusal(400, "Invalid query string.") from error


def _throttled(account: Account, wait: int) -> Response[bytes]:
    """A call over its limit. What the platform's own 429 looks like is not known."""
    headers = {"Retry-After": str(wait)} if account.retry_after else {}
    form = account.world.facts.throttle
    if form == "envelope":
        return refused(account, Refusal(429, "Too Many Requests", None, headers))
    return Response(
        b"" if form == "empty" else HTML,
        status_code=429,
        media_type="text/html",
        headers=headers,
    )


async def _result(account: Account, endpoint: Endpoint, call: Call) -> object | None:
    try:
        result = await endpoint.answer(call)
    except Refusal:
        account.traffic.settle(endpoint.call_class, accepted=False)
        raise
    account.traffic.settle(endpoint.call_class, accepted=True)
    return result


def _fault(
    account: Account, endpoint: Endpoint, moment: Moment, result: object = None
) -> Fault | None:
    if not account.faults.waiting:
        return None
    return account.faults.strike(endpoint.call_class, endpoint.name, moment, result)


async def answered(
    account: Account, endpoint: Endpoint, request: Request[Any, Any, Any]
) -> Response[Any]:
    """One call, from its arrival to its answer.

    Raises:
        Refusal: It is not answered, and has changed nothing.
    """
    _authorise(account, endpoint, request)
    wait = account.traffic.admit(endpoint.call_class)
    if wait:
        return _throttled(account, wait)
    call = Call(
        account=account,
        method=endpoint.method,
        path=request.scope["path"],
        ids=dict(request.scope["path_params"]),
        query=_query(request),
        body=b"" if endpoint.method == "GET" else await request.body(),
    )
    fault = _fault(account, endpoint, "before")
    if fault is not None and fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
    elif fault is not None:
        return await spoil(fault, request)
    result = await _result(account, endpoint, call)
    await account.wait()
    fault = _fault(account, endpoint, "after", result)
    if fault is not None:
        altered = account.faults.altered(fault, result, request)
        return await spoil(fault, request, success(altered, account.notice))
    return Response(success(result, account.notice), media_type="application/json")


def routes(account: Account) -> list[HTTPRouteHandler]:
    """The handlers of every endpoint, for one account."""

    def mounted(endpoint: Endpoint) -> HTTPRouteHandler:
        async def handle(request: Request[Any, Any, Any]) -> Response[Any]:
            return await answered(account, endpoint, request)

        return route(f"{API_ROOT}{endpoint.path}", http_method=[endpoint.method], status_code=200)(
            handle
        )

    return [mounted(endpoint) for endpoint in ENDPOINTS]
