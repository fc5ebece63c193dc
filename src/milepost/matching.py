"""Responses are matched to links: whether a response is of the link that it names.

Nothing in a link is signed by the platform, and whoever holds one can edit it: put another id in
its place, leave a parameter out, add one. So a response is believed no more than it proves. It
proves most by its *reference* (`milepost_ref`), which is signed here and names one link::

    without reference   it names none: the survey's bare link, or a flow that does not declare it
    forged              no live secret has signed it
    foreign             signed, but of no issued link, or of another than the response came by
    true                signed, of an issued link of this survey, and nothing speaks against it

By which link a response came is told by the response itself as far as it goes: by the channel, and
by whose contact it was. The platform's history tells it exactly, but late, and on some accounts not
at all; so what is true by the response alone says that history has not confirmed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from enum import StrEnum
from typing import Final

from msgspec import Struct

from milepost import payload
from milepost.budget import for_purpose
from milepost.errors import UnknownResponse
from milepost.model import DriftKind, Fact, LinkRecord, LinkState, Purpose, Reason, Route
from milepost.personal_link import NotAPersonalLink, parse
from milepost.store import Store
from milepost.store.links import Named
from milepost.upstream import CallFailed, NotFound, SurveyResponse, Upstream

MOST_ENTRIES: Final = 1_000
"""How much of one distribution's history is read for one response: ten calls."""

_PERSONAL: Final = frozenset({"gl", "email"})
"""Channels of personal links: what stands in them as `Q_CHL` (observed)."""

_PLAIN: Final = "anonymous"
"""The channel of a survey's own link (inferred)."""

SENTENCES: Final[Mapping[str, str]] = {
    "no-reference": "The response holds no milepost_ref: it came by the survey's bare link, or the "
    "survey's flow does not declare that field, or the data of its link were not told yet.",
    "not-signed": "No live secret has signed its milepost_ref: somebody has altered it or made it "
    "up, or it is of a secret that is not live any more.",
    "no-link": "Its milepost_ref is signed, but the ledger has no such link.",
    "other-survey": "Its milepost_ref names a link of another survey.",
    "not-issued": "Its milepost_ref names a link that was never issued.",
    "revoked": "Its milepost_ref names a link that was revoked before the survey was started.",
    "plain-link": "Its milepost_ref names a personal link, and it came by the survey's plain one.",
    "personal-link": "Its milepost_ref names a plain link of the survey, and it came by somebody's "
    "personal one.",
    "other-registrant": "Its milepost_ref names a link of another registrant than the one whose "
    "contact has answered.",
    "other-link": "Its milepost_ref names another link than the one under which the platform's "
    "history has it.",
    "after-end": "It was started after its link had ended, which the platform does not know.",
    "unconfirmed": "Nothing speaks against it. The platform's history does not have it under that "
    "link, or not yet, or was not read that far.",
    "unreadable": "The platform has not shown it for a week. Let the token's user see the survey's "
    "responses, and have it read again: milepost run reconcile --thorough.",
}
"""What a rule means to a person."""


class Verdict(StrEnum):
    """Whether a response is of the link that it names."""

    TRUE = "true"
    FORGED = "forged"
    FOREIGN = "foreign"
    WITHOUT_REFERENCE = "without-reference"


class Through(Struct, frozen=True):
    """The link by which a response came, as the platform's history has it."""

    distribution_id: str
    """`EMD_…`."""
    lookup_id: str | None
    """`CGC_…` or `CTR_…`."""


class Match(Struct, frozen=True, kw_only=True):
    """What is held of a response, and why."""

    survey_id: str
    response_id: str
    verdict: Verdict
    reason: Reason | None
    """The rule that decided; None: it is true, and all that can confirm it does."""
    link: LinkRecord | None
    """The link that it names; whether it came by that one, the verdict says."""


def judge(
    survey_id: str,
    response: SurveyResponse,
    *,
    is_signed: bool,
    named: Named | None,
    through: Through | None = None,
) -> tuple[Verdict, str | None]:
    """Whether a response is of the link that it names, and the rule that decided.

    Args:
        survey_id: of the survey that was answered.
        response: as the platform tells it.
        is_signed: a live secret has signed its reference.
        named: the link that the reference names; None: there is none.
        through: the link by which it came; None: history does not tell.
    """
    if _reference(response) is None:
        return Verdict.WITHOUT_REFERENCE, "no-reference"
    if not is_signed:
        return Verdict.FORGED, "not-signed"
    if named is None:
        return Verdict.FOREIGN, "no-link"
    if rule := _against(survey_id, response, named, through):
        return Verdict.FOREIGN, rule
    return Verdict.TRUE, _beside(response, named, through)


EARLY_SECONDS: Final = 5
"""A survey that was started so soon after the platform had its data may have been started before:
it tells whole seconds, and its clock is not ours."""


def counts_for(match: Match, came_by: LinkRecord | None) -> LinkRecord | None:
    """The link that a response counts for; None: none.

    It is the one by which it came, whatever its reference says; where no history tells that, the
    one that it names. What was revoked here goes on working at the platform: that it was answered
    is so all the same.

    Args:
        match: what is held of it.
        came_by: the link by which it came, where history has told it.
    """
    if came_by is not None:
        return came_by
    rule = None if match.reason is None else match.reason.rule
    return match.link if match.verdict is Verdict.TRUE or rule == "revoked" else None


def drift_of(
    match: Match, response: SurveyResponse, came_by: LinkRecord | None, through: Through | None
) -> DriftKind | None:
    """As what a response is flagged; None: it is as it should be, or nobody knows yet.

    Args:
        match: what is held of it.
        response: as the platform tells it.
        came_by: the link by which it came, where history has told it and the ledger has it.
        through: what history has told.
    """
    rule = None if match.reason is None else match.reason.rule
    match match.verdict:
        case Verdict.TRUE:
            return None
        case Verdict.WITHOUT_REFERENCE if came_by is not None:
            return DriftKind.EARLY_RESPONSE if _is_early(response, came_by) else None
        case Verdict.WITHOUT_REFERENCE if through is None:
            return None
        case Verdict.FOREIGN if rule == "other-survey":
            return DriftKind.OTHER_MILESTONE
        case Verdict.FOREIGN if match.link and came_by:
            is_of_other = match.link.milestone != came_by.milestone
            return DriftKind.OTHER_MILESTONE if is_of_other else DriftKind.FOREIGN_RESPONSE
    return DriftKind.FOREIGN_RESPONSE


def _is_early(response: SurveyResponse, link: LinkRecord) -> bool:
    """Whether a response without a reference was started before its link's data were told.

    The reference comes with the data: one that is there was not early. Only the data of a ready
    link come after it.
    """
    begun, told = response.started_at, link.data_at
    is_unseen = link.reason is not None and link.reason.rule == "data-unseen"
    if begun is None or is_unseen or link.route is Route.ANONYMOUS or told == link.issued_at:
        return False
    return told is None or begun <= told + timedelta(seconds=EARLY_SECONDS)


def _beside(response: SurveyResponse, named: Named, through: Through | None) -> str | None:
    """What is to be said of a response that is true."""
    end, begun = named.link.expires_at, response.started_at
    if end is not None and begun is not None and begun > end:
        return "after-end"
    return "unconfirmed" if named.route is not Route.ANONYMOUS and through is None else None


def _against(
    survey_id: str, response: SurveyResponse, named: Named, through: Through | None
) -> str | None:
    """The first rule that speaks against a response's being of this link."""
    link, begun, whose = named.link, response.started_at, response.ref
    is_revoked = link.revoked_at is not None and (begun is None or begun >= link.revoked_at)
    is_personal = response.channel in _PERSONAL or whose is not None or through is not None
    rules = {
        "other-survey": named.survey_id != survey_id,
        "not-issued": link.state is not LinkState.ISSUED,
        "revoked": is_revoked,
    }
    if named.route is Route.ANONYMOUS:
        rules |= {"personal-link": is_personal}
    else:
        rules |= {
            "other-registrant": whose is not None and whose != link.registrant,
            "plain-link": whose is None and response.channel == _PLAIN,
            "other-link": through is not None and through != _own(named),
        }
    return next((rule for rule, speaks in rules.items() if speaks), None)


def _reference(response: SurveyResponse) -> str | None:
    value = response.values.get(payload.REFERENCE_FIELD)
    return value if isinstance(value, str) and value else None


def _own(named: Named) -> Through | None:
    """Under which link the platform's history has the responses of a personal link."""
    try:
        link = parse(named.url or "")
    except NotAPersonalLink:
        return None
    return Through(link.distribution_id, link.lookup_id)


class Matching:
    """Says of responses at the platform whose they are.

    Args:
        store: the ledger.
        upstream: has the responses, and their history.
        secrets: those that references may be signed with.
    """

    def __init__(self, store: Store, upstream: Upstream, secrets: Sequence[bytes]) -> None:
        self._store = store
        self._upstream = upstream
        self._secrets = secrets

    async def match(
        self,
        survey_id: str,
        response_id: str,
        response: SurveyResponse,
        through: Through | None = None,
    ) -> Match:
        """Hold a response against the ledger; no call is made.

        Args:
            survey_id: of the survey that was answered.
            response_id: `R_…`.
            response: as the platform tells it.
            through: the link by which it came, where history has told it.
        """
        is_signed, named = await self._named(response)
        verdict, rule = judge(
            survey_id, response, is_signed=is_signed, named=named, through=through
        )
        return _match(survey_id, response_id, verdict, rule, named)

    async def explain(self, survey_id: str, response_id: str) -> Match:
        """Ask the platform for a response, and for its history where only that can confirm it.

        What a history has told the ledger already is held against it, as job `reconcile` does. One
        call, and up to ten more.

        Args:
            survey_id: of the survey that was answered.
            response_id: `R_…`.

        Raises:
            UnknownResponse: the survey has no such response.
            CallFailed: the platform cannot be asked for it.
        """
        with for_purpose(Purpose.RECONCILE):
            try:
                response = await self._upstream.response(survey_id, response_id)
            except NotFound:
                raise UnknownResponse from None
            is_signed, named = await self._named(response)
            came_by = await self._store.responses.came_by(survey_id, response_id)
            verdict, rule = judge(
                survey_id,
                response,
                is_signed=is_signed,
                named=named,
                through=came_by and Through(*came_by),
            )
            if rule == "unconfirmed" and named is not None:
                through = await self._through(named, response_id)
                verdict, rule = judge(
                    survey_id, response, is_signed=is_signed, named=named, through=through
                )
        return _match(survey_id, response_id, verdict, rule, named)

    async def _named(self, response: SurveyResponse) -> tuple[bool, Named | None]:
        """Whether the reference of a response is signed, and the link that it names."""
        reference = _reference(response) or ""
        sealed = payload.unseal(reference, self._secrets)
        if sealed is None:
            return False, None
        return True, await self._store.links.of_reference(reference, sealed)

    async def _through(self, named: Named, response_id: str) -> Through | None:
        """Look for a response in the history of the distribution on which its link stands."""
        own = _own(named)
        account = await self._store.capabilities.current()
        if own is None or not account.holds(Fact.HISTORY_LINKS):
            return None
        read = 0
        with suppress(CallFailed):  # then nothing confirms it, as where it is not told
            async with aclosing(self._upstream.history(own.distribution_id)) as entries:
                async for entry in entries:
                    read += 1
                    if entry.response_id == response_id:
                        return Through(own.distribution_id, entry.lookup_id)
                    if read == MOST_ENTRIES:
                        break
        return None


def _match(
    survey_id: str, response_id: str, verdict: Verdict, rule: str | None, named: Named | None
) -> Match:
    return Match(
        survey_id=survey_id,
        response_id=response_id,
        verdict=verdict,
        reason=None if rule is None else Reason(rule, None, SENTENCES[rule]),
        link=None if named is None else named.link,
    )
