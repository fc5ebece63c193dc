"""What Milepost takes for granted of an account, in words: each assumption, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Final, Literal

from msgspec import Struct

from milepost.model import Capability, Fact

Verdict = Literal["yes", "no", "not known"]


class Answer(Struct, frozen=True, kw_only=True):
    """What a probe has found out about one assumption."""

    fact: Fact
    assumption: str
    answer: Verdict
    figure: int | None
    """In the unit that `Fact` says."""
    evidence: str
    """What was seen. No personal data, no links."""
    consequence: str


class _Assumption(Struct, frozen=True):
    """A statement about the platform, and what Milepost does if it is so, and if not."""

    statement: str
    if_so: str
    if_not: str


_ASSUMPTIONS: Final[Mapping[Fact, _Assumption]] = {
    Fact.PROBE_ONLY_DISTRIBUTION: _Assumption(
        "A distribution can be made on a list that holds only our probe.",
        "Pools are made ahead of events, so that a link takes one call.",
        "No pool of lists can be made ahead of events: no milestone is newly registered with route "
        "list or anonymous, and the pools that there are do not grow.",
    ),
    Fact.LATE_LINK: _Assumption(
        "A link that is built for a contact added later opens, and its response is attributed.",
        "Links are built from the answer of the call that adds the contact.",
        "Each link is looked up in the platform's own list after the contact was added, a second "
        "call; membership ahead is refused, and there is no lane ready.",
    ),
    Fact.ONE_CONTACT: _Assumption(
        "The same person in two lists is one contact.",
        "What became of a call is told by the contact; an unknown outcome takes one look.",
        "Each link makes another contact of the same person: no milestone is newly registered "
        "with route list, and an unknown outcome takes a minute of searching.",
    ),
    Fact.SAME_LOOKUP: _Assumption(
        "The same person, added to the same list again, keeps their lookup id.",
        "A call whose outcome is unknown may be repeated: it meets what the first one made.",
        "A call whose outcome is unknown is never repeated before a minute of looking, since a "
        "second one would break the link of the first.",
    ),
    Fact.PROMPT_SEARCH: _Assumption(
        "A search finds a contact that was added a moment ago.",
        "What a minute of searching does not find is not there.",
        "A contact counts as missing only after twice that time without a search that finds it.",
    ),
    Fact.PRIVATE_DATA: _Assumption(
        "The survey sees the data that are private to a list.",
        "An event's data go along with the call that makes its link.",
        "Route list sends no data: responses are joined with events by the ledger alone.",
    ),
    Fact.TRANSACTION_BATCH: _Assumption(
        "A batch takes a distribution, and the built link of a transaction added later opens.",
        "Route transaction makes links of many events by the same two calls, and route stepwise "
        "keeps the data of each link apart.",
        "No milestone is newly registered with route transaction; with route stepwise a person "
        "holds one live link at a time, since their data stand in a list.",
    ),
    Fact.COMPLETE_LINKS: _Assumption(
        "The link of a contact is listed at once.",
        "A slot is ready as soon as it is made.",
        "A slot is ready only when its probe's link is listed, which may take days: register "
        "milestones 72 hours before their first event.",
    ),
    Fact.HISTORY_LINKS: _Assumption(
        "Links that were built here stand in the distribution's history.",
        "A response can be matched to its link by the history, too.",
        "Responses are matched to links by milepost_ref alone: the survey flow must declare it.",
    ),
    Fact.URL_WINS: _Assumption(
        "Of a field that the contact and the link's query both have, the link's value is recorded.",
        "Whoever has a link can write other data into it: trust the ledger's, not the response's.",
        "A respondent cannot write over a contact's data.",
    ),
    Fact.TRANSACTIONS_PER_CALL: _Assumption(
        "Several transactions can be made by one call.",
        "Route transaction puts as many events into a call.",
        "Route transaction makes two calls for each event.",
    ),
    Fact.LONGEST_EXPIRY: _Assumption(
        "A distribution lives as long as milestones say.",
        "Milestones may have link_days of up to {figure}.",
        "A milestone with link_days of more than {figure} is refused: lower those that there are.",
    ),
    Fact.THROTTLE: _Assumption(
        "A 429 says when to come back.",
        "All processes keep away for as long as it says.",
        "All processes slow down after a 429, and find the rate by growing back.",
    ),
}


def answer(
    fact: Fact, verdict: Verdict, evidence: str, figure: int | None, earlier: Capability | None
) -> Answer:
    """Put an answer into words.

    Args:
        fact: what was tried.
        verdict: what the trial has shown.
        evidence: what was seen.
        figure: the number that goes with it.
        earlier: what an earlier probe has found; it stays where this one has found nothing.
    """
    assumption = _ASSUMPTIONS[fact]
    consequences: Mapping[Verdict, str] = {
        "yes": assumption.if_so,
        "no": assumption.if_not,
        "not known": _unchanged(earlier),
    }
    return Answer(
        fact=fact,
        assumption=assumption.statement,
        answer=verdict,
        figure=figure,
        evidence=evidence,
        consequence=consequences[verdict].format(figure=figure),
    )


def _unchanged(earlier: Capability | None) -> str:
    if earlier is None:
        return "It is taken for granted, as before."
    found = "yes" if earlier.holds else "no"
    return f'The answer of {earlier.probed_at.astimezone(UTC):%Y-%m-%d}, "{found}", stays.'
