"""Visits to the survey: who gets in by which link, what is captured, and that it is once.

A session takes a copy of all data when it starts: later changes do not reach it (observed,
anecdotal).
"""

from __future__ import annotations

import re

from milepost.simulator import distributions
from milepost.simulator.links import Parts
from milepost.simulator.survey import DEFAULT_LANGUAGE, QUESTIONS, language_of
from milepost.simulator.things import (
    Act,
    Closed,
    Contact,
    Distribution,
    Membership,
    Outcome,
    Recipient,
    Session,
    Visit,
)
from milepost.simulator.world import World


def visit(
    world: World, survey_id: str, parts: Parts | None, at: int, session_id: str | None = None
) -> Visit:
    """What a link leads to at a moment.

    Expiry counts before the first click only (inferred): a session that has started may end.

    Args:
        world: Where to look.
        survey_id: From the link's path.
        parts: What the link names; `None` is the survey's plain, anonymous link.
        at: Milliseconds since the epoch.
        session_id: The session that is to go on. Without it an Individual link's own goes on, and
            any other link leads to a fresh one.

    Raises:
        Closed: The link does not open.
    """
    survey = world.surveys.get(survey_id)
    if survey is None:
        raise Closed("incorrect")
    if parts is None and survey.invitation_only:
        raise Closed("invitation")
    distribution = recipient = session = None
    language = DEFAULT_LANGUAGE
    if parts is not None:
        distribution, recipient = _named(world, survey_id, parts)
        language = language_of(world.contacts[recipient.contact_id].language)
        if distribution.link_type == "Individual":
            session = distribution.sessions.get(recipient.id)
    if session_id is not None:
        session = world.sessions.get(session_id)
        if session is None or not session.is_of(survey, distribution, recipient):
            raise Closed("incorrect")
    if session is not None and session.response_id is not None:
        raise Closed("taken", language)
    if not survey.active:
        raise Closed("inactive", language)
    if session is None and distribution is not None and at >= distribution.expires_at:
        raise Closed("expired", language)
    return Visit(survey, distribution, recipient, session, language)


def _named(world: World, survey_id: str, parts: Parts) -> tuple[Distribution, Recipient]:
    distribution = world.distributions.get(parts.distribution_id)
    if distribution is None or not parts.survey_id == survey_id == distribution.survey_id:
        raise Closed("incorrect")
    recipient = distributions.recipient(world, distribution, parts.recipient_id)
    if recipient is None:
        raise Closed("incorrect")
    return distribution, recipient


def ids_of(found: Visit) -> dict[str, str]:
    """What a visit is about, as the journal names it."""
    ids = {"survey": found.survey.id}
    if found.distribution is not None and found.recipient is not None:
        kind = "lookup" if isinstance(found.recipient, Membership) else "transaction"
        ids |= {"distribution": found.distribution.id, kind: found.recipient.id}
    return ids


def _parts(ids: dict[str, str]) -> Parts | None:
    if "distribution" not in ids:
        return None
    recipient_id = ids["lookup"] if "lookup" in ids else ids["transaction"]
    return Parts(ids["distribution"], ids["survey"], recipient_id)


def start(world: World, act: Act) -> Outcome:
    """Open a link for the first time.

    Private data and transaction data win over the contact's own (inferred).
    """
    found = visit(world, act.ids["survey"], _parts(act.ids), act.at)
    data: dict[str, str] = {}
    recipient: dict[str, str] = {}
    if found.recipient is not None:
        contact = world.contacts[found.recipient.contact_id]
        data = (contact.embedded or {}) | _more_data(world, found.recipient)
        recipient = _person(contact)
    declared = set(found.survey.declared_fields)
    if world.undeclared_fields == "dropped":
        data = {name: value for name, value in data.items() if name in declared}
    query = {name: value for name, value in act.body.query.items() if name in declared}
    session = Session(
        id=act.mint("FS"),
        survey_id=found.survey.id,
        started_at=act.at,
        data=data | query if world.facts.url_wins else query | data,
        recipient=recipient,
        language=found.language,
    )
    world.sessions[session.id] = session
    ids = {"session": session.id}
    if found.distribution is not None and found.recipient is not None:
        session.distribution_id = found.distribution.id
        session.recipient_id = found.recipient.id
        found.distribution.sessions[found.recipient.id] = session
        found.distribution.started += 1
        ids["contact"] = found.recipient.contact_id
    return Outcome(session, ids)


def _more_data(world: World, recipient: Recipient) -> dict[str, str]:
    if not isinstance(recipient, Membership):
        return world.transactions[recipient.id].data
    return (recipient.private or {}) if world.facts.private_data else {}


def _person(contact: Contact) -> dict[str, str]:
    """The response's fields that say who answered (documented)."""
    named = {
        "recipientFirstName": contact.first_name,
        "recipientLastName": contact.last_name,
        "recipientEmail": contact.email,
        "externalDataReference": contact.ext_ref,
    }
    return {name: value for name, value in named.items() if value is not None}


def complete(world: World, act: Act) -> Outcome:
    """Send the survey page off. A session can do so once.

    Raises:
        Closed: `taken` if it did already, `incorrect` if it is not a session of that link.
    """
    found = visit(world, act.ids["survey"], _parts(act.ids), act.at, act.ids["session"])
    session = world.sessions[act.ids["session"]]
    session.response_id = act.mint("R")
    session.completed_at = act.at
    session.answers = act.body.values
    world.responses[session.response_id] = session
    if found.distribution is not None:
        found.distribution.finished += 1
    return Outcome(session, {"response": session.response_id})


def answers_of(form: dict[str, str]) -> dict[str, int | str] | None:
    """The answers in a form that was sent off; `None` if one is missing or not on offer."""
    answers: dict[str, int | str] = {}
    for question in QUESTIONS:
        given = form.get(question.id, "").strip()
        if question.kind == "text":
            if given:
                answers[question.id] = given
        elif re.fullmatch("[0-9]{1,2}", given) and 1 <= int(given) <= len(question.choices):
            answers[question.id] = int(given)
        elif given or question.required:
            return None
    return answers
