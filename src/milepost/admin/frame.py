"""What all pages have in common: their frame, and how errors look.

Every address in a page is relative, so that Milepost may stand behind a proxy under a path of its
own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from milepost.admin.sessions import COOKIE, Sessions
from milepost.api import problems
from milepost.api.pages import PRIVATE, Pages
from milepost.api.problems import Problem
from milepost.errors import DatabaseBusy, Refusal, UpstreamError
from milepost.model import Caller, Scope

PATH: Final = "/admin"

_PLACE: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)*")

Asked = Request[Any, Any, Any]


class Frame:
    """Shows pages to whoever is signed in, and the way in to everybody else.

    Args:
        sessions: know the token that the forms of a page carry.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._pages = Pages("milepost.admin", "admin.css", forms="'self'")
        self._pages.templates.filters |= {"day": day, "moment": moment, "number": number}

    def show(
        self,
        request: Asked,
        template: str,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
        **said: object,
    ) -> Response[bytes]:
        """The answer that is a page."""
        caller = request.scope.get("auth")
        is_known = isinstance(caller, Caller)
        return self._pages.respond(
            template,
            status,
            headers,
            root=root(request),
            caller=caller if is_known else None,
            may_change=isinstance(caller, Caller) and caller.may(Scope.ADMIN),
            token=self._sessions.token(request.cookies.get(COOKIE, "")) if is_known else None,
            **said,
        )

    def ask_in(
        self, request: Asked, status: HTTPStatus, problem: str | None = None, place: str = ""
    ) -> Response[bytes]:
        """The page on which a key is shown.

        Args:
            request: what is answered.
            status: of the answer.
            problem: why nobody was let in.
            place: where to go from there, as `place`.
        """
        return self.show(request, "sign_in.html", status, problem=problem, place=place)

    def on(
        self, explain: Callable[[Asked, Any], Response[bytes]]
    ) -> Callable[..., Response[bytes]]:
        """Have an error explained as the API does, and shown as a page."""

        def answer(request: Asked, error: Exception) -> Response[bytes]:
            told = explain(request, error)
            problem = msgspec.json.decode(told.content, type=Problem)
            status = HTTPStatus(problem.status)
            if status is HTTPStatus.UNAUTHORIZED:
                return self.ask_in(request, status, place=place(request))
            kept = {name: told.headers[name] for name in ("Retry-After",) if name in told.headers}
            return self.show(request, "problem.html", status, kept, problem=problem)

        return answer

    @property
    def errors(self) -> dict[int | type[Exception], Callable[..., Response[bytes]]]:
        """What each error is answered with."""
        return {
            Refusal: self.on(problems.refused),
            DatabaseBusy: self.on(problems.busy),
            UpstreamError: self.on(problems.away),
            HTTPException: self.on(problems.framework),
            Exception: self.on(problems.unexpected),
        }


def root(request: Asked) -> str:
    """The relative address of the first page, from the page that was asked for.

    By the path as it was sent: the framework takes a slash from the end of its own.
    """
    below = request.scope["raw_path"].decode("latin-1").partition("?")[0].removeprefix(PATH)
    return "/".join([".."] * (below.count("/") - 1)) or "." if below else PATH.lstrip("/")


def place(request: Asked) -> str:
    """Where a page stands below the first one; empty where nobody should be sent."""
    below = str(request.scope["path"]).removeprefix(PATH).rstrip("/")
    return below if request.method == "GET" and _PLACE.fullmatch(below) else ""


def go(
    request: Asked, place: str = "", query: str = "", headers: dict[str, str] | None = None
) -> Response[bytes]:
    """Send the browser to another page, after what a form has done."""
    if not _PLACE.fullmatch(place):
        place = ""
    address = root(request) + (place or "/") + (f"?{query}" if query else "")
    return Response(
        b"",
        status_code=HTTPStatus.SEE_OTHER,
        media_type="text/html",
        headers=PRIVATE | {"Location": address} | (headers or {}),
    )


def moment(at: datetime | None) -> str:
    """A moment as people write it, in UTC."""
    return f"{at:%d %b %Y, %H:%M}".lstrip("0") if at else "—"


def day(of: date) -> str:
    """A day as people write it."""
    return f"{of:%d %b %Y}".lstrip("0")


def number(count: float) -> str:
    """A number whose thousands stand apart."""
    return f"{count:,}".replace(",", "\u202f")
