"""Who opens a short link: a person, or a program that only looks at it.

A person's visit completes the link and counts; a program's must do neither. The two mistakes do not
weigh the same. A program taken for a person costs one call to the platform, which the drain would
have made anyway. A person taken for a program cannot get to the survey. So whoever does not say
that it is a program is a person, and every name below is one that no browser of a person bears:

- **In, by name**: what fetches a page for a preview in a chat or a post, for a search engine, or to
  check mail for harm, as far as it says so. Names of companies are not enough, since the browsers
  inside their apps bear them too (`Slack/4.36`, `LinkedInApp`, `Twitter for iPhone`, `GSA/`).
- **In, by habit**: a name followed by `+http…`, the address of its makers. Crawlers do that so
  that one can complain about them; browsers do not.
- **In**: Microsoft Office, which opens a link by itself before it hands it to the browser. Whatever
  address it is redirected to is what the browser gets.
- **Out**: `bot` alone, in which every Cubot phone would be caught, and `WhatsApp` anywhere but in
  front. Signal's previews bear that name as well.
- **Out**: HTTP libraries and command lines (curl, python-httpx, okhttp): their name says how they
  fetch, not why. An app that opens the link at a tap, and a developer who tries it, are to see what
  customers see.
- **Out**: headless browsers, for the same reason.
- **Out**: no name at all. Some browsers send none for privacy, as do some scanners.

Mail scanners that pretend to be browsers (Safe Links, Proofpoint and Mimecast do so for the most
part: second-hand, inferred) are not told apart from people here, nor anywhere else by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Visitor(StrEnum):
    """Whom a visit is from."""

    PERSON = "person"
    BROWSER = "browser"
    """A person's browser, ahead of the person: it may show them later what it gets now."""
    PROGRAM = "program"


_AHEAD: Final = re.compile(r"\b(?:prefetch|prerender|preview|instant)\b", re.IGNORECASE)
_AHEAD_HEADERS: Final = (
    "sec-purpose",  # the standard's: `prefetch`, `prefetch;prerender`
    "purpose",  # Chrome's, still sent beside it
    "x-purpose",  # Safari's: `preview`, for the pictures of its top sites
    "x-moz",  # older Firefox's
)

_PROGRAMS: Final = re.compile(
    r"""
      \+https?://
    # Chats and posts.
    | \bSlackbot | \bSlack-ImgProxy | ^WhatsApp/ | \bTelegramBot | \bDiscordbot
    | \bfacebookexternalhit | \bFacebot | \bmeta-external(?:agent|fetcher|hit)
    | \bTwitterbot | \bLinkedInBot | \bPinterestbot | \bredditbot
    | \bSkypeUriPreview | \bMicrosoftPreview | \bGoogleMessages/
    # Search engines and their kin.
    | \bGooglebot | \bGoogleOther | \bGoogle-(?:InspectionTool|Read-Aloud|Safety|Site-Verification)
    | \b(?:AdsBot|APIs|FeedFetcher|Mediapartners)-Google
    | \bGoogleImageProxy | \bGoogle\ Web\ Preview
    | \bbingbot | \bBingPreview | \badidxbot | \bApplebot
    # Checks of mail, and Office.
    | \bSafe-?Links | \bProofpoint | \burldefense | \bBarracuda | \bMimecast
    | \bms-office\b | \bMSOffice\b | \bMicrosoft\ Office\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def visitor(method: str, headers: Mapping[str, str]) -> Visitor:
    """Whom a request for a short link is from.

    Args:
        method: of HTTP; only a GET is ever a person's.
        headers: of the request, which are found by their names in lower case.
    """
    if method != "GET" or _PROGRAMS.search(headers.get("user-agent", "")):
        return Visitor.PROGRAM
    if any(_AHEAD.search(headers.get(name, "")) for name in _AHEAD_HEADERS):
        return Visitor.BROWSER
    return Visitor.PERSON
