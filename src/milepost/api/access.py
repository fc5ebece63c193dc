"""Who may call what: API keys and their scopes.

Every handler names the scopes that open it with `needs(…)`, or says `PUBLIC`; an application with
one that does neither is not made (`refuse_unguarded`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.params import QueryParameter
from litestar.routes import HTTPRoute

from milepost.api.requests import header
from milepost.errors import InvalidRequest
from milepost.model import Caller, Scope
from milepost.store.keys import KeyStore
from milepost.wording import one_of

SCOPES: Final = "scopes"
SHOWN: Final = "shown"
"""The option that says how a caller shows their key, where it is not with the request: a `Showing`.
"""
PUBLIC: Final[dict[str, Any]] = {SCOPES: ()}

Connection = ASGIConnection[Any, Any, Any, Any]
Showing = Callable[[Request[Any, Any, Any]], Awaitable[Caller | None]]
"""Whose key is shown; None: none is, or none that is in force."""


def needs(*scopes: Scope) -> dict[str, Any]:
    """The options of a handler that is open to keys with one of these scopes, and to `admin`."""
    return {SCOPES: scopes}


def refuse_unguarded(application: Litestar) -> None:
    """See that nobody forgot to say who may call a handler, or let others in by a hook of its own.

    Raises:
        TypeError: a handler has no scopes, or its doorkeeper is not the application's.
    """
    for route in application.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if handler.resolve_before_request() is not application.before_request:
                raise TypeError(f"{handler} on {route.path} has a before_request of its own")
            # Litestar answers OPTIONS itself; those have no scopes, so the doorkeeper refuses them.
            if SCOPES not in handler.opt and handler.http_methods != {"OPTIONS"}:
                raise TypeError(f"{handler} on {route.path} says neither needs(…) nor PUBLIC")


class Doorkeeper:
    """Stands before every handler.

    As its `before_request`, and not as a guard: for a guard the framework copies the handler at
    every request, which takes longer than all that is done here. Of hooks of that kind only the
    innermost is called, so `refuse_unguarded` sees that it is this one.
    """

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    async def __call__(self, request: Request[Any, Any, Any]) -> None:
        """Let the caller in, or raise 401 or 403; 400 where the address says what is not known."""
        scopes: tuple[Scope, ...] | None = request.route_handler.opt.get(SCOPES)
        if scopes == ():
            return
        showing: Showing = request.route_handler.opt.get(SHOWN, self._bearer)
        caller = await showing(request)
        if caller is None:
            raise HTTPException(
                status_code=HTTPStatus.UNAUTHORIZED,
                detail="Send an API key that is in force, as: Authorization: Bearer mp_…",
                headers={"WWW-Authenticate": "Bearer"},
                extra={"fix": "Ask an operator for one: milepost keys create NAME --scope SCOPE"},
            )
        if scopes is None or not caller.may(*scopes):
            least, *others = scopes or (Scope.ADMIN,)
            wanted = " or ".join([least, *others])
            raise HTTPException(
                status_code=HTTPStatus.FORBIDDEN,
                detail=f"The key {caller.name!r} lacks the scope {wanted}.",
                extra={
                    "fix": f"Ask an operator for one: milepost keys create NAME --scope {least}"
                },
            )
        request.scope["auth"] = caller
        if request.scope["query_string"]:
            _refuse_unknown_parameters(request)

    async def _bearer(self, request: Request[Any, Any, Any]) -> Caller | None:
        kind, _, key = header(request.scope, b"authorization").partition(" ")
        return await self._keys.caller(key.strip()) if kind.lower() == "bearer" else None


def _refuse_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """A wish that is not understood must not be taken for none: `dryrun` would write."""
    declared = request.route_handler.parsed_fn_signature.parameters.items()
    known = [
        field.kwarg_definition.name or name
        for name, field in declared
        if isinstance(field.kwarg_definition, QueryParameter)
    ]
    for name in request.query_params:
        if name not in known:
            raise InvalidRequest(
                f"There is no parameter {name!r} here.",
                fix=one_of(known) if known else "Leave it out.",
                field=name,
            )


def caller_of(connection: Connection) -> Caller:
    """Whose key opened the door."""
    caller = connection.scope["auth"]
    if not isinstance(caller, Caller):  # pragma: no cover  (the doorkeeper wrote it)
        raise TypeError(caller)
    return caller
