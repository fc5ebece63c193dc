"""Access tokens: who has one, what it is good for, and until when.

Scopes are `read:`, `write:` or `manage:` and what they are about, in the platform's names (observed
in clients). That `read:` is for reading alone, `write:` for the rest alone and `manage:` for both,
and `manage:all` for everything, is inferred.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from msgspec import Struct

CLIENT_ID = "simulator"
CLIENT_SECRET = "simulator"  # noqa: S105 - it opens a stand-in
"""The one OAuth client there is."""

TOKEN_SECONDS = 3600
"""How long an access token lives unless that is set (observed in a client)."""

EVERYTHING = "manage:all"

_ABOUT = {
    "batch_transactions": "contact_transactions",
    "directories": "directories",
    "directory_contacts": "directory_contacts",
    "distributions": "distributions",
    "history": "distributions",
    "imports": "mailing_list_contacts",
    "links": "distributions",
    "list_contacts": "mailing_list_contacts",
    "mailing_lists": "mailing_lists",
    "responses": "survey_responses",
    "subscriptions": "subscriptions",
    "surveys": "surveys",
    "transaction_batches": "contact_transactions",
    "transactions": "contact_transactions",
}

SCOPES = frozenset(
    f"{verb}:{about}" for verb in ("read", "write", "manage") for about in _ABOUT.values()
) | {EVERYTHING}
"""Every scope that can be asked for."""


def scopes_for(call_class: str, *, reads: bool) -> tuple[str, ...]:
    """The scopes of which a call needs one; none where any token will do."""
    about = _ABOUT.get(call_class)
    if about is None:
        return ()
    return (f"{'read' if reads else 'write'}:{about}", f"manage:{about}", EVERYTHING)


class Grant(Struct, frozen=True):
    """What an access token is good for, and the account's time at which it ends."""

    scopes: frozenset[str]
    expires_at: int


class Tokens:
    """The access tokens that are out. A restart forgets them, as if they had been revoked."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._grants: dict[str, Grant] = {}
        self.seconds = TOKEN_SECONDS

    def grant(self, scopes: frozenset[str]) -> str:
        """A fresh token, good for these scopes."""
        now = self._now()
        self._grants = {
            token: held for token, held in self._grants.items() if held.expires_at > now
        }
        token = secrets.token_urlsafe(24)
        self._grants[token] = Grant(scopes, now + self.seconds * 1000)
        return token

    def scopes_of(self, token: str) -> frozenset[str] | None:
        """What a token is good for; `None` if it is not, or no longer, one of ours."""
        held = self._grants.get(token)
        return held.scopes if held is not None and held.expires_at > self._now() else None
