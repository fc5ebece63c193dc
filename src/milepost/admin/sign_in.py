"""In and out: a key is shown once, and a session begins."""

from __future__ import annotations

from http import HTTPStatus

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from milepost.admin.frame import Frame, go
from milepost.admin.sessions import Sessions, form
from milepost.api.access import PUBLIC, needs
from milepost.api.requests import StrictRequest
from milepost.model import Scope
from milepost.store.keys import KeyStore


def handlers(keys: KeyStore, sessions: Sessions, frame: Frame) -> list[HTTPRouteHandler]:
    """The way in, which is open, and the way out."""

    @get("/sign-in", opt=PUBLIC)
    async def ask(request: StrictRequest) -> Response[bytes]:
        """Ask for a key."""
        return frame.ask_in(request, HTTPStatus.OK)

    @post("/sign-in", opt=PUBLIC)
    async def sign_in(request: StrictRequest) -> Response[bytes]:
        """Let the owner of a key in."""
        given = await form(request)
        place = given.get("place", "")
        caller = await keys.caller(given.get("key", "").strip())
        if caller is None:
            problem = "No key in force reads like this. Look for a part that was not copied along."
            return frame.ask_in(request, HTTPStatus.UNAUTHORIZED, problem, place)
        if not caller.may(Scope.READ):
            has = " and ".join(sorted(scope.value for scope in caller.scopes)) or "nothing"
            problem = f"The key {caller.name} is for {has}. These pages take one for read or admin."
            return frame.ask_in(request, HTTPStatus.FORBIDDEN, problem, place)
        session = await sessions.begin(caller.key_id)
        return go(request, place, headers={"Set-Cookie": sessions.cookie(session)})

    @post("/sign-out", opt=needs(Scope.READ))
    async def sign_out(request: StrictRequest) -> Response[bytes]:
        """End the session of this browser."""
        return go(request, "/sign-in", headers={"Set-Cookie": sessions.cookie()})

    @get("/sign-out", opt=needs(Scope.READ))
    async def stay(request: StrictRequest) -> Response[bytes]:
        """Go back: nobody is signed out by an address."""
        return go(request)

    return [ask, sign_in, sign_out, stay]
