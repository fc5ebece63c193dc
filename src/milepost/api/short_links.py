"""The short link: `/l/<token>`, which a customer opens in a browser and which leads to the survey.

A person's visit completes the link at once and redirects to the personal URL. While that takes
longer than `WAIT_SECONDS`, a page says so and comes again by itself, for about half a minute; then
it asks to come back later. Programs that only look (`visitors`) get a page that is the same for
every token: for them nothing is read, written or called.

The token is a credential, as the personal URL is: neither is written to a log, put into a page or
given to another site as a referrer. Every address in a page is relative, so that Milepost may stand
behind a proxy under a path of its own, and a button is a link and not a form: browsers hold
`form-action` also against what a form is redirected to, and that is the platform's host.
"""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Any, Final, Literal

from litestar import Request, Response, Router, get, head
from msgspec import Struct

from milepost.api import problems
from milepost.api.access import PUBLIC
from milepost.api.languages import WORDS, language_of
from milepost.api.pages import PRIVATE, Pages
from milepost.api.requests import StrictRequest
from milepost.api.visitors import Visitor, visitor
from milepost.errors import DatabaseBusy, UnknownLink
from milepost.issuing import Issuing

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 2.0
"""How long a browser shows nothing before a page says why."""

AGAIN_SECONDS: Final = 3
"""From one try of a waiting page to the next, the wait inside the try included."""

TRIES: Final = 10
"""After so many (about 30 s) nobody is watching any more, and the page stops asking."""

_TOKEN: Final = re.compile("[A-Za-z0-9_-]{22}")
_NUMBER: Final = re.compile("[0-9]{1,3}")

_PAGES: Final = Pages("milepost.api", "short_link.css")

State = Literal["open", "waiting", "later", "gone", "unknown"]


class _Refresh(Struct, frozen=True):
    """When a page asks again by itself, and the how manieth try that is."""

    seconds: int
    attempt: int


def router(issuing: Issuing) -> Router:
    """The routes under `/l`. They answer browsers and not programs: the schema leaves them out."""

    @get(["/", "/{token:path}"])
    async def visit(request: StrictRequest) -> Response[bytes]:
        """Send a person to their survey; show everybody else a page."""
        accepted = request.headers.get("accept-language")
        token = _token(request)
        attempt = _attempt(request)
        if token is None:
            return _page("unknown", language_of(None, accepted), HTTPStatus.NOT_FOUND)
        match visitor("GET", request.headers):
            case Visitor.PERSON:
                return await _complete(issuing, token, attempt, accepted)
            case Visitor.BROWSER:
                # The page may be shown once the person comes: its next try is theirs.
                return _page("open", language_of(None, accepted), refresh=_again(attempt, 1))
            case Visitor.PROGRAM:
                return _page("open", language_of(None, accepted))

    @head(["/", "/{token:path}"])
    async def look(request: StrictRequest) -> Response[None]:
        """Say that a page is there, whichever it will be."""
        status = HTTPStatus.NOT_FOUND if _token(request) is None else HTTPStatus.OK
        return Response(None, status_code=status, media_type="text/html", headers=_PAGES.headers)

    return Router(
        "/l",
        route_handlers=[visit, look],
        opt=PUBLIC,
        include_in_schema=False,
        exception_handlers={Exception: _mistaken},
    )


def _mistaken(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a mistake of ours with a page as well: customers cannot read problems."""
    problems.unexpected(request, error)  # tells the log where it happened
    language = language_of(None, request.headers.get("accept-language"))
    return _page("later", language, HTTPStatus.INTERNAL_SERVER_ERROR)


async def _complete(
    issuing: Issuing, token: str, attempt: int, accepted: str | None
) -> Response[bytes]:
    """Complete a link for a person, or say how it stands."""
    clock = asyncio.get_running_loop().time
    began = clock()
    language = language_of(None, accepted)
    status, headers = HTTPStatus.OK, dict[str, str]()
    try:
        clicked = await issuing.click(token, wait=WAIT_SECONDS)
    except UnknownLink:
        return _page("unknown", language, HTTPStatus.NOT_FOUND)
    except DatabaseBusy as error:
        log.warning("answered 503: %s", error)
        status, headers = HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": str(error.retry_after)}
    else:
        language = language_of(clicked.language, accepted)
        if clicked.gone is not None:
            return _page("gone", language, HTTPStatus.GONE)
        if clicked.url is not None:
            found = PRIVATE | {"Location": clicked.url}
            return Response(
                b"", status_code=HTTPStatus.FOUND, media_type="text/html", headers=found
            )
    refresh = _again(attempt, max(1, round(AGAIN_SECONDS - (clock() - began))))
    state: State = "waiting" if refresh else "later"
    return _page(state, language, status, refresh=refresh, headers=headers)


def _token(request: StrictRequest) -> str | None:
    """The token in the address; None where it cannot be one, so that nobody need look for it."""
    token = str(request.path_params.get("token", "")).removeprefix("/")
    return token if _TOKEN.fullmatch(token) else None


def _attempt(request: StrictRequest) -> int:
    """The how manieth try of a waiting page this is, from 1 on."""
    given = request.query_params.get("try", "1")
    return max(1, int(given)) if _NUMBER.fullmatch(given) else 1


def _again(attempt: int, seconds: int) -> _Refresh | None:
    return _Refresh(seconds, attempt + 1) if attempt < TRIES else None


def _page(
    state: State,
    language: str,
    status: HTTPStatus = HTTPStatus.OK,
    *,
    refresh: _Refresh | None = None,
    headers: dict[str, str] | None = None,
) -> Response[bytes]:
    words = WORDS[language]
    heading, text, button = {
        "open": (words.survey, words.open_text, words.open_button),
        "waiting": (words.waiting, words.waiting_text, words.again_button),
        "later": (words.later, words.later_text, words.again_button),
        "gone": (words.gone, words.gone_text, None),
        "unknown": (words.unknown, words.unknown_text, None),
    }[state]
    return _PAGES.respond(
        "short_link.html",
        status,
        headers,
        state=state,
        language=language,
        title=words.survey,
        heading=heading,
        text=text,
        button=button,
        busy=state == "waiting",
        refresh=refresh,
    )
