"""How a call shows whose it is: with an API token, or with access tokens got for a client's secret.

An API token is for ever. An access token lives for an hour (observed in a client): the next one is
asked for ahead of its end, in the background, by one call at a time, so that nobody waits for it
but those who come before the first. One that is refused although its time is not over was revoked:
it is given up, and the refused call, which had no effect, is made once more with another.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Annotated, Final, NewType, TypeAlias
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, Struct

from milepost.errors import ConfigurationError
from milepost.upstream.errors import CallFailed

SCOPES: Final = (
    "read:directories",
    "read:surveys",
    "read:survey_responses",
    "manage:directory_contacts",
    "manage:mailing_lists",
    "manage:mailing_list_contacts",
    "manage:contact_transactions",
    "manage:distributions",
)
"""What Milepost does, in the platform's names (observed in clients). That `manage` covers reading
and writing is inferred."""

EARLY: Final = 0.1
"""Of its life, an access token's last part, in which the next one is asked for."""

LAST_SECONDS: Final = 5.0
"""Of an access token, in which no call sets out with it: it would be refused on arrival."""

SUSPECT_SECONDS: Final = 10.0
"""Between two askings after refusals: a token refused at once is no accident, and the next one
would be refused, too."""

Token = NewType("Token", str)
"""An API token of a user, which goes into the header `X-API-TOKEN`."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """An OAuth client of the account.

    Attributes:
        id: The client's id.
        secret: Its secret.
        scopes: What is asked for; who grants none or fewer refuses the asking as a whole.
    """

    id: str
    secret: str = field(repr=False)
    scopes: tuple[str, ...] = SCOPES


Credentials: TypeAlias = Token | ClientCredentials

_VISIBLE: Final = re.compile(r"[!-~]+")


class AccessGrant(Struct, frozen=True):
    """The answer to the asking: it has no envelope (documented).

    Attributes:
        access_token: Goes into the header `Authorization`.
        expires_in: Seconds that it lives.
    """

    access_token: Annotated[str, Meta(pattern=r"\A[!-~]{1,4096}\Z")]
    expires_in: Annotated[float, Meta(gt=0, le=31_536_000)]


class GrantRefusal(Struct, frozen=True):
    """Why there is no access token, in the words of OAuth, such as `invalid_client`."""

    error: str


class Access:
    """The right to make calls, as a header."""

    __slots__ = ("expires_at", "header", "proven", "renews_at", "since")

    def __init__(self, header: tuple[bytes, bytes], since: float, lifetime: float) -> None:
        self.header = header
        self.since = since
        self.expires_at = since + max(lifetime - LAST_SECONDS, lifetime / 2)
        self.renews_at = min(since + lifetime * (1 - EARLY), self.expires_at)
        self.proven = False
        """Whether a call was answered with it."""


class TokenAccess:
    """The access that an API token gives."""

    def __init__(self, token: str) -> None:
        _check(token, "the upstream token")
        self._access = Access((b"X-API-TOKEN", token.encode()), 0.0, float("inf"))

    async def current(self) -> Access | CallFailed:
        """The one there is."""
        return self._access

    def give_up(self, _access: Access) -> bool:
        """There is no other to be had."""
        return False

    async def aclose(self) -> None:
        """Nothing is under way."""


class ClientAccess:
    """The access of an OAuth client: the token that it has, and the asking for the next one.

    Args:
        credentials: The client.
        ask: Makes the call for a token; what it raises is a `CallFailed`.
        clock: Seconds that never go back.

    Raises:
        ConfigurationError: Id or secret cannot stand in a header.
    """

    def __init__(
        self,
        credentials: ClientCredentials,
        ask: Callable[[], Awaitable[AccessGrant]],
        clock: Callable[[], float],
    ) -> None:
        _check(credentials.id, "the upstream client's id")
        _check(credentials.secret, "the upstream client's secret")
        if ":" in credentials.id:
            raise ConfigurationError("the upstream client's id has a colon")
        self._ask = ask
        self._clock = clock
        self._access: Access | None = None
        self._asking: asyncio.Task[Access | CallFailed] | None = None
        self._suspected_at = -SUSPECT_SECONDS

    async def current(self) -> Access | CallFailed:
        """The access to set out with; why there is none, where there is none."""
        now = self._clock()
        access = self._access
        if access is not None and now < access.renews_at:
            return access
        if self._asking is None:
            # In a context of its own: the call is nobody's, and counts for nobody.
            self._asking = asyncio.create_task(self._renewed(), context=Context())
        if access is not None and now < access.expires_at:
            return access
        # Others wait for it, too: who goes away does not end it.
        return await asyncio.shield(self._asking)

    def give_up(self, access: Access) -> bool:
        """Take it that a refused access was revoked; False: another would be refused, too."""
        if self._access is not access:
            return True
        now = self._clock()
        if not access.proven and now - self._suspected_at < SUSPECT_SECONDS:
            return False
        self._suspected_at = now
        self._access = None
        return True

    async def aclose(self) -> None:
        """End the asking, if there is one."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _renewed(self) -> Access | CallFailed:
        asked_at = self._clock()
        try:
            grant = await self._ask()
        except CallFailed as error:
            return error
        finally:
            self._asking = None
        header = (b"Authorization", b"Bearer " + grant.access_token.encode())
        self._access = Access(header, asked_at, grant.expires_in)
        return self._access


def grant_form(credentials: ClientCredentials) -> bytes:
    """The body that asks for an access token."""
    scope = " ".join(credentials.scopes)
    return urlencode({"grant_type": "client_credentials", "scope": scope}).encode()


def basic(credentials: ClientCredentials) -> bytes:
    """The value of `Authorization` that asks for an access token."""
    return b"Basic " + b64encode(f"{credentials.id}:{credentials.secret}".encode())


GRANT: Final = msgspec.json.Decoder(AccessGrant)
GRANT_REFUSAL: Final = msgspec.json.Decoder(GrantRefusal)


def _check(secret: str, name: str) -> None:
    if not _VISIBLE.fullmatch(secret):
        raise ConfigurationError(f"{name} is empty or not plain visible ASCII")
