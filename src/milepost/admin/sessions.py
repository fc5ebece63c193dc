"""Sessions of the page: who has shown a key once need not show it with each request.

A session is a cookie, and no row: the key's id and a moment, sealed with the deployment's secret
and the key's hash. It takes both to make one, so that neither who reads the database can, nor who
knows the secret; and the key itself is not in it. Each request asks for the key's owner as the API
does: a key that is revoked ends its sessions within `REMEMBERED_SECONDS`.

The cookie goes to our own pages alone (`SameSite=Strict`), and no script sees it (`HttpOnly`). A
form carries a token besides, which is the session's: what another site, or another program on this
host, has a browser send is refused.
"""

from __future__ import annotations

import hmac
import re
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import Request
from litestar.exceptions import HTTPException

from milepost.api.requests import header
from milepost.errors import InvalidRequest
from milepost.model import Caller
from milepost.store.keys import KeyStore

COOKIE: Final = "milepost_session"

SESSION_SECONDS: Final = 12 * 3600
"""A working day and its margins: nobody signs in twice on one, and a browser that was left open is
signed out by the next morning."""

MAX_FORM_BYTES: Final = 4 * 1024
MAX_FIELDS: Final = 8

_SHAPE: Final = re.compile(r"([0-9a-f]{8})\.([0-9]{1,12})\.([0-9a-f]{64})")
_FORM: Final = "application/x-www-form-urlencoded"

Form = dict[str, str]


class Sessions:
    """Begins and knows sessions.

    Args:
        keys: who owns a key, and whether it is in force.
        secret: the deployment's, with which sessions are sealed.
        secure: browsers send the cookie over TLS alone.
    """

    def __init__(self, keys: KeyStore, secret: bytes, *, secure: bool) -> None:
        self._keys = keys
        self._secret = secret
        self._attributes = "HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")

    async def begin(self, key_id: str) -> str:
        """A session of a key's owner; empty where the key is not in force any more."""
        holder = await self._keys.holder(key_id)
        if holder is None:
            return ""
        known = f"{key_id}.{int(time.time()) + SESSION_SECONDS}"
        return f"{known}.{self._seal('session', known, holder[1])}"

    def cookie(self, session: str = "") -> str:
        """The `Set-Cookie` that gives a browser its session, or takes away the one it has.

        It names no path: it is the form's own then, without its last part, so that it holds for all
        pages, also where they stand under a path of their own behind a proxy, and for no others.
        """
        seconds = SESSION_SECONDS if session else 0
        return f"{COOKIE}={session}; Max-Age={seconds}; {self._attributes}"

    def token(self, session: str) -> str:
        """What a form must carry to be taken for one of this session."""
        return self._seal("form", session)

    async def caller(self, request: Request[Any, Any, Any]) -> Caller | None:
        """Whose session the request is of; None where it has none that is in force.

        Raises:
            HTTPException: the request changes something, and is not of a form of ours.
            InvalidRequest: as `form`.
        """
        session = request.cookies.get(COOKIE, "")
        shape = _SHAPE.fullmatch(session)
        if shape is None:
            return None
        key_id, until, seal = shape.groups()
        if int(until) <= time.time() or (holder := await self._keys.holder(key_id)) is None:
            return None
        caller, digest = holder
        if not hmac.compare_digest(self._seal("session", f"{key_id}.{until}", digest), seal):
            return None
        if request.method not in {"GET", "OPTIONS"}:
            given = (await form(request)).get("token", "")
            if not hmac.compare_digest(self.token(session).encode(), given.encode()):
                raise HTTPException(
                    status_code=HTTPStatus.FORBIDDEN,
                    detail="The form is not one of this session: load its page again.",
                )
        return caller

    def _seal(self, purpose: str, text: str, digest: bytes = b"") -> str:
        sealed = f"admin {purpose} {text} {digest.hex()}".encode()
        return hmac.digest(self._secret, sealed, "sha256").hex()


async def form(request: Request[Any, Any, Any]) -> Form:
    """The fields of a form that a page of ours has sent.

    Raises:
        HTTPException: 403 for one of another site, 415 for what is no form, and as `body`.
        InvalidRequest: it cannot be one.
    """
    if header(request.scope, b"sec-fetch-site") not in {"", "same-origin", "none"}:
        raise HTTPException(
            status_code=HTTPStatus.FORBIDDEN, detail="The form comes from another site."
        )
    kind = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise HTTPException(
            status_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail=f"Send a form, as {_FORM}."
        )
    try:
        text = (await request.body()).decode("ascii")
        return dict(parse_qsl(text, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError:  # UnicodeDecodeError is one
        raise InvalidRequest("The form cannot be read.") from None
