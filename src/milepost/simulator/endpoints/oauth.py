"""`POST /oauth2/token` on the origin: an access token for a client's id and secret.

It is not under the API's root, is counted against no limit, and speaks OAuth's own words: errors
are `{"error": …, "error_description": …}`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler

from milepost.simulator.account import Account
from milepost.simulator.tokens import CLIENT_ID, CLIENT_SECRET, SCOPES

FORM_SIZE = 64 * 1024
"""Bytes of a token request: some scopes."""

_CREDENTIALS = ("client_id", "client_secret")
_NOT_BASIC = "Send client id and secret as HTTP Basic authentication, not in the form."


def _answer(content: object, status: int = 200) -> Response[bytes]:
    # No cache may keep a token (RFC 6749, 5.1).
    headers = {"Cache-Control": "no-store"}
    if status == 401:  # noqa: PLR2004 - HTTP's own number
        headers["WWW-Authenticate"] = "Basic"
    return Response(
        msgspec.json.encode(content),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )


def _error(code: str, description: str, status: int = 400) -> Response[bytes]:
    return _answer({"error": code, "error_description": description}, status)


def _is_the_client(request: Request[Any, Any, Any]) -> bool:
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return secrets.compare_digest(given, f"{CLIENT_ID}:{CLIENT_SECRET}".encode())


def routes(account: Account) -> list[HTTPRouteHandler]:
    """The handler of token requests, for one account."""

    @post("/oauth2/token", status_code=200, request_max_body_size=FORM_SIZE)
    async def grant_token(request: Request[Any, Any, Any]) -> Response[bytes]:
        try:
            form = dict(parse_qsl((await request.body()).decode(), max_num_fields=20))
        except ValueError:
            form = None
        if not _is_the_client(request):
            in_form = form is not None and not form.keys().isdisjoint(_CREDENTIALS)
            wrong = _NOT_BASIC if in_form else "Client id or secret is wrong."
            return _error("invalid_client", wrong, 401)
        if form is None:
            return _error("invalid_request", "The body is not a form.")
        if form.get("grant_type") != "client_credentials":
            return _error("unsupported_grant_type", "grant_type must be client_credentials.")
        scopes = frozenset(form.get("scope", "").split())
        if not scopes:
            return _error("invalid_scope", "scope is missing; for example: read:surveys")
        if unknown := sorted(scopes - SCOPES):
            return _error("invalid_scope", f"Unknown scopes: {' '.join(unknown)}")
        return _answer(
            {
                "access_token": account.tokens.grant(scopes),
                "token_type": "Bearer",
                "expires_in": account.tokens.seconds,
                "scope": " ".join(sorted(scopes)),
            }
        )

    return [grant_token]
