"""The verbs of the survey platform that Milepost uses, each one HTTP call, typed at both ends.

A verb that creates or changes something is sent once and ends in one of three ways that a caller
can act on: it returns, nothing happened (`Refused`, `Unreachable`), or nobody knows
(`UnknownOutcome`). A verb that reads may be tried again inside its deadline. Lists are read page by
page as they are iterated, each page being a read of its own.

Paths and bodies follow the platform's documentation where nothing else is said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from milepost.upstream.call import CallClass, Caller, Gate, Request
from milepost.upstream.errors import Refused, Unreadable
from milepost.upstream.wire import (
    Account,
    AddedContact,
    Bare,
    Contact,
    ContactFields,
    Directory,
    Distribution,
    DistributionBody,
    DistributionId,
    Envelope,
    FoundContact,
    HistoryEntry,
    ListContact,
    ListedLink,
    ListId,
    Made,
    MailingList,
    MailingListBody,
    Page,
    RefFilter,
    SearchBody,
    SurveyDefinition,
    SurveyResponse,
    path_id,
    zulu,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

T = TypeVar("T")

DEADLINE: Final = 10.0
"""Seconds for all of one call: half a claim's lease of 20 s, and more than the longest deadline of
8 s that a caller of ours may set, so that a slow call can still settle behind the answer."""

MOST_PAGES: Final = 20_000
"""Of one listing: two million rows at the platform's 100 a page, twice the largest deployment."""

_NO_RECIPIENTS: Final = "CP_TD_GER_NP"

_encode: Final = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder

_ACCOUNT: Final = _decoder(Envelope[Account])
_DIRECTORIES: Final = _decoder(Envelope[Page[Directory]])
_LIST_MADE: Final = _decoder(Envelope[Made[ListId]])
_LISTS: Final = _decoder(Envelope[Page[MailingList]])
_ADDED: Final = _decoder(Envelope[AddedContact])
_LIST_CONTACTS: Final = _decoder(Envelope[Page[ListContact]])
_CONTACT: Final = _decoder(Envelope[Contact])
_FOUND: Final = _decoder(Envelope[Page[FoundContact]])
_DISTRIBUTION_MADE: Final = _decoder(Envelope[Made[DistributionId]])
_DISTRIBUTIONS: Final = _decoder(Envelope[Page[Distribution]])
_LINKS: Final = _decoder(Envelope[Page[ListedLink]])
_HISTORY: Final = _decoder(Envelope[Page[HistoryEntry]])
_DEFINITION: Final = _decoder(Envelope[SurveyDefinition])
_RESPONSE: Final = _decoder(Envelope[SurveyResponse])
_DONE: Final = _decoder(Bare)


class Upstream:
    """The client of one account; safe to share between tasks of one event loop.

    Every verb raises `UpstreamError`s as `upstream/errors.py` draws them, and `ValueError` for an
    argument that could not be sent, such as an id of another kind.

    Args:
        base_url: `https://{datacenter}.qualtrics.com/API/v3`, or an `http` one of this machine.
        token: Sent as `X-API-TOKEN`, to the origin of `base_url` only.
        deadline: Seconds for all of one call: waiting for a connection, and all tries of a read.
        max_connections: Calls that may be under way at once; others wait inside their deadline.
        gate: What each request passes before it is sent; None: all pass.

    Raises:
        ConfigurationError: The address is neither https nor on this machine, or the token is empty.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        deadline: float = DEADLINE,
        max_connections: int = 100,
        gate: Gate | None = None,
    ) -> None:
        self._caller = Caller(
            base_url, token, deadline=deadline, max_connections=max_connections, gate=gate
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._caller.aclose()

    # --- the account ----------------------------------------------------------------------------

    async def whoami(self) -> Account:
        """Say whose token it is."""
        return (
            await self._caller.read(Request("whoami", "account", "GET", "/whoami"), _ACCOUNT)
        ).result

    async def directories(self) -> list[Directory]:
        """List the account's directories, with the criteria by which each merges contacts."""
        pages = self._pages("directories", "directories", "/directories", _DIRECTORIES)
        return [directory async for directory in pages]

    # --- mailing lists --------------------------------------------------------------------------

    async def create_mailing_list(self, directory_id: str, name: str) -> str:
        """Make a mailing list and return its id, `CG_…`; a name has at most 100 characters."""
        path = f"{_directory(directory_id)}/mailinglists"
        body = _encode(MailingListBody(name))
        request = Request("create_mailing_list", "mailing_lists", "POST", path, body)
        return (await self._caller.write(request, _LIST_MADE)).result.id

    def mailing_lists(self, directory_id: str) -> AsyncIterator[MailingList]:
        """Iterate over a directory's lists.

        Beyond 10,000 lists a directory stops listing them (documented).
        """
        path = f"{_directory(directory_id)}/mailinglists?pageSize=100"
        return self._pages("mailing_lists", "mailing_lists", path, _LISTS)

    async def delete_mailing_list(self, directory_id: str, list_id: str) -> None:
        """Delete a list; every link of every distribution on it is dead then (observed)."""
        request = Request(
            "delete_mailing_list", "mailing_lists", "DELETE", _list(directory_id, list_id)
        )
        await self._caller.write(request, _DONE)

    # --- contacts -------------------------------------------------------------------------------

    async def add_list_contact(
        self, directory_id: str, list_id: str, contact: ContactFields
    ) -> AddedContact:
        """Add a person to a list: the one call that a link of the `list` route takes.

        With merging on, the contact that has the same values in the directory's criteria is
        changed (documented), so every field of the criteria must be in `contact`; with merging off
        another contact is made (documented). The same person again gets the same lookup id, and
        the data are overwritten (inferred).
        """
        path = _list(directory_id, list_id) + "/contacts"
        request = Request("add_list_contact", "list_contacts", "POST", path, _encode(contact))
        return (await self._caller.write(request, _ADDED)).result

    def list_contacts(self, directory_id: str, list_id: str) -> AsyncIterator[ListContact]:
        """Iterate over the contacts of a list, with their lookup ids."""
        path = _list(directory_id, list_id) + "/contacts?pageSize=100"
        return self._pages("list_contacts", "list_contacts", path, _LIST_CONTACTS)

    async def update_list_contact(
        self, directory_id: str, list_id: str, contact_id: str, fields: ContactFields
    ) -> None:
        """Change what a list knows of a contact; what is None is left as it is.

        The platform refuses keys beyond those of `ContactFields`, and nulls (observed).
        """
        path = f"{_list(directory_id, list_id)}/contacts/{path_id('CID', contact_id)}"
        request = Request("update_list_contact", "list_contacts", "PUT", path, _encode(fields))
        await self._caller.write(request, _DONE)

    async def get_contact(self, directory_id: str, contact_id: str) -> Contact:
        """Read one contact of the directory, with the lists that they are in."""
        path = f"{_directory(directory_id)}/contacts/{path_id('CID', contact_id)}"
        request = Request("get_contact", "directory_contacts", "GET", path)
        return (await self._caller.read(request, _CONTACT)).result

    def search_contacts(self, directory_id: str, *, ref: str) -> AsyncIterator[FoundContact]:
        """Iterate over the contacts whose `extRef` is `ref`.

        How soon a search finds a contact that was just made is not known.
        """
        path = f"{_directory(directory_id)}/contacts/search?pageSize=100"
        body = _encode(SearchBody(RefFilter(ref)))
        return self._pages("search_contacts", "directory_contacts", path, _FOUND, body=body)

    # --- distributions and links ----------------------------------------------------------------

    async def create_distribution(
        self, survey_id: str, mailing_list_id: str, description: str, expires_at: datetime
    ) -> str:
        """Make a distribution of individual links that nobody is sent; return its id, `EMD_…`.

        The survey must be active (documented). 90 days to `expires_at` were accepted (observed);
        the maximum is not known.
        """
        body = DistributionBody(
            survey_id=path_id("SV", survey_id),
            mailing_list_id=path_id("CG", mailing_list_id),
            description=description,
            expiration_date=zulu(expires_at),
        )
        request = Request(
            "create_distribution", "distributions", "POST", "/distributions", _encode(body)
        )
        return (await self._caller.write(request, _DISTRIBUTION_MADE)).result.id

    def distributions(self, survey_id: str) -> AsyncIterator[Distribution]:
        """Iterate over a survey's distributions, everybody's among them."""
        path = f"/distributions?surveyId={path_id('SV', survey_id)}"
        return self._pages("distributions", "distributions", path, _DISTRIBUTIONS)

    def distribution_links(self, distribution_id: str, survey_id: str) -> AsyncIterator[ListedLink]:
        """Iterate over the links of a distribution.

        Reading them updates the frequency rules of every contact in them (documented), so only
        lists that hold nobody but our probe are to be read. A list has been seen incomplete for
        more than 48 hours (observed).
        """
        path = f"{_distribution(distribution_id)}/links?surveyId={path_id('SV', survey_id)}"
        return self._pages("distribution_links", "links", path, _LINKS)

    async def history(self, distribution_id: str) -> AsyncIterator[HistoryEntry]:
        """Iterate over what became of a distribution's links.

        A distribution without recipients has been answered with a refusal (observed); here it has
        no history.
        """
        path = f"{_distribution(distribution_id)}/history"
        try:
            async for entry in self._pages("history", "history", path, _HISTORY):
                yield entry
        except Refused as error:
            if error.error_code != _NO_RECIPIENTS:
                raise

    # --- surveys --------------------------------------------------------------------------------

    async def survey_definition(self, survey_id: str) -> SurveyDefinition:
        """Read whether a survey is active, and which fields it declares."""
        path = f"/survey-definitions/{path_id('SV', survey_id)}"
        request = Request("survey_definition", "surveys", "GET", path)
        return (await self._caller.read(request, _DEFINITION)).result

    async def response(self, survey_id: str, response_id: str) -> SurveyResponse:
        """Read one response with its embedded data."""
        path = f"/surveys/{path_id('SV', survey_id)}/responses/{path_id('R', response_id)}"
        request = Request("response", "responses", "GET", path)
        return (await self._caller.read(request, _RESPONSE)).result

    async def _pages(
        self,
        verb: str,
        call_class: CallClass,
        path: str,
        decoder: msgspec.json.Decoder[Envelope[Page[T]]],
        *,
        body: bytes | None = None,
    ) -> AsyncIterator[T]:
        """Read a list to its end by cursor; where the next page's URL leads is never looked at.

        A wrong data centre answers with URLs of another host (observed).
        """
        method = "GET" if body is None else "POST"
        joint = "&" if "?" in path else "?"
        seen: set[str] = set()
        cursor = ""
        while True:
            where = f"{path}{joint}skipToken={quote(cursor, safe='')}" if cursor else path
            request = Request(verb, call_class, method, where, body)
            page = (await self._caller.read(request, decoder)).result
            for element in page.elements:
                yield element
            if page.next_page is None:
                return
            cursor = _cursor(verb, page.next_page)
            if cursor in seen or len(seen) >= MOST_PAGES:
                raise Unreadable(verb, "the pages of a list do not end", "paging")
            seen.add(cursor)


def _cursor(verb: str, next_page: str) -> str:
    try:
        tokens = parse_qs(urlsplit(next_page).query).get("skipToken", [])
    except ValueError:
        tokens = []
    if len(tokens) != 1:
        raise Unreadable(verb, "a page names a next one without one cursor", "paging")
    return tokens[0]


def _directory(directory_id: str) -> str:
    return f"/directories/{path_id('POOL', directory_id)}"


def _list(directory_id: str, list_id: str) -> str:
    return f"{_directory(directory_id)}/mailinglists/{path_id('CG', list_id)}"


def _distribution(distribution_id: str) -> str:
    return f"/distributions/{path_id('EMD', distribution_id)}"
