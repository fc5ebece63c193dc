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
from milepost.simulator.faults import spoil
from milepost.simulator.wire import API_ROOT, Refusal, failure, success

TOKEN = b"simulator"
"""The one token there is."""


def refused(refusal: Refusal) -> Response[bytes]:
    """A refusal as it leaves."""
    return Response(
        failure(refusal),
        status_code=refusal.status,
        media_type="application/json",
        headers=refusal.headers,
    )


def _authorise(request: Request[Any, Any, Any]) -> None:
    for name, value in request.scope["headers"]:
        if name == b"x-api-token":
            if value == TOKEN:
                return
            raise Refusal(401, "Unrecognized X-API-TOKEN.", "DCD_7")
    raise Refusal(401, "Expected authorization in headers, but none provided.", "ATP_2")


def _query(request: Request[Any, Any, Any]) -> dict[str, str]:
    text = request.scope["query_string"]
    try:
        return dict(parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise Refusal(400, "Invalid query string.") from error


def _admit(account: Account, endpoint: Endpoint, request: Request[Any, Any, Any]) -> None:
    _authorise(request)
    wait = account.traffic.admit(endpoint.call_class)
    if wait:
        headers = {"Retry-After": str(wait)} if account.retry_after else None
        raise Refusal(429, "Too Many Requests", None, headers)


async def _result(account: Account, endpoint: Endpoint, call: Call) -> object | None:
    try:
        result = await endpoint.answer(call)
    except Refusal:
        account.traffic.settle(endpoint.call_class, accepted=False)
        raise
    account.traffic.settle(endpoint.call_class, accepted=True)
    return result


async def answered(
    account: Account, endpoint: Endpoint, request: Request[Any, Any, Any]
) -> Response[bytes]:
    """One call, from its arrival to its answer.

    Raises:
        Refusal: It is not answered, and has changed nothing.
    """
    _admit(account, endpoint, request)
    call = Call(
        account=account,
        method=endpoint.method,
        path=request.scope["path"],
        ids=dict(request.scope["path_params"]),
        query=_query(request),
        body=b"" if endpoint.method == "GET" else await request.body(),
    )
    fault = account.faults.strike(endpoint.call_class, "before")
    if fault is not None and fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
    elif fault is not None:
        return await spoil(fault, request)
    content = success(await _result(account, endpoint, call))
    if account.latency_ms:
        await asyncio.sleep(account.latency_ms / 1000)
    fault = account.faults.strike(endpoint.call_class, "after")
    if fault is not None:
        return await spoil(fault, request, content)
    return Response(content, media_type="application/json")


def routes(account: Account) -> list[HTTPRouteHandler]:
    """The handlers of every endpoint, for one account."""

    def mounted(endpoint: Endpoint) -> HTTPRouteHandler:
        async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
            return await answered(account, endpoint, request)

        return route(f"{API_ROOT}{endpoint.path}", http_method=[endpoint.method], status_code=200)(
            handle
        )

    return [mounted(endpoint) for endpoint in ENDPOINTS]
