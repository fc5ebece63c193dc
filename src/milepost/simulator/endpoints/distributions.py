"""Distributions, their links, and what became of them."""

from __future__ import annotations

from msgspec import Struct

from milepost.simulator.call import BRAND_ID, Call, Endpoint, writes
from milepost.simulator.things import Distribution, Membership, Session
from milepost.simulator.wire import PAGE_SIZE, Refusal, instant, second


def _link(origin: str, distribution: Distribution, lookup_id: str) -> str:
    form = f"{origin}/jfe/form/{distribution.survey_id}"
    if distribution.link_type == "Anonymous":
        return form
    parts = f"{distribution.id}_{distribution.survey_id.removeprefix('SV_')}_{lookup_id}"
    return f"{form}?Q_CHL=gl&Q_DL={parts}&_g_=g"


def _distribution(call: Call, found: Distribution) -> dict[str, object]:
    owner = call.account.world.owner_id
    return {
        "id": found.id,
        "parentDistributionId": None,
        "ownerId": owner,
        "organizationId": BRAND_ID,
        "requestStatus": "Generated",
        "requestType": "GeneratedInvite",
        "sendDate": second(found.created_at),
        "createdDate": second(found.created_at),
        "modifiedDate": second(found.created_at),
        "customHeaders": {},
        "headers": {"fromEmail": None, "replyToEmail": None, "fromName": None},
        "recipients": {
            "mailingListId": found.list_id,
            "contactId": found.only,
            "libraryId": owner,
            "sampleId": None,
        },
        "message": {"libraryId": None, "messageId": None, "messageText": None},
        "surveyLink": {
            "surveyId": found.survey_id,
            "expirationDate": second(found.expires_at),
            "linkType": found.link_type,
        },
        "embeddedData": None,
        "stats": {
            "sent": 0,
            "failed": 0,
            "started": found.started,
            "bounced": 0,
            "opened": 0,
            "skipped": 0,
            "finished": found.finished,
            "complaints": 0,
            "blocked": 0,
        },
    }


async def distributions(call: Call) -> object:
    """A survey's distributions, of one list if that is asked for."""
    survey_id = call.required("surveyId")
    list_id = call.query.get("mailingListId")
    found = [
        one
        for one in call.account.world.distributions
        if one.survey_id == survey_id and list_id in (None, one.list_id)
    ]
    return call.paged(found, lambda one: _distribution(call, one))


async def distribution(call: Call) -> object:
    """One distribution, with its counts."""
    survey_id = call.required("surveyId")
    return _distribution(call, call.account.world.distribution(call.ids, survey_id))


async def links(call: Call) -> object:
    """A distribution's links: one for each contact that is in the list now."""
    world = call.account.world
    found = world.distribution(call.ids, call.required("surveyId"))

    def shown(member: Membership) -> dict[str, object]:
        contact = world.contacts[member.contact_id]
        return {
            "contactId": contact.id,
            "transactionId": None,
            "link": _link(call.account.origin, found, member.id),
            "exceededContactFrequency": False,
            "linkExpiration": second(found.expires_at),
            "status": "Email not sent",
            "lastName": contact.last_name,
            "firstName": contact.first_name,
            "externalDataReference": contact.ext_ref,
            "email": contact.email,
            "unsubscribed": contact.unsubscribed,
        }

    return call.paged(world.recipients(found), shown, size=PAGE_SIZE)


async def history(call: Call) -> object:
    """What became of each link; 400 where there is no recipient (observed)."""
    world = call.account.world
    found = world.distribution(call.ids)
    recipients = world.recipients(found)
    if not recipients:
        raise Refusal(400, "No recipients found for the distribution", "CP_TD_GER_NP")

    def shown(member: Membership) -> dict[str, object]:
        session = found.sessions.get(member.id) or _Unopened()
        return {
            "contactId": member.contact_id,
            "contactLookupId": member.id,
            "distributionId": found.id,
            "status": _status(session),
            "surveyLink": _link(call.account.origin, found, member.id),
            "contactFrequencyRuleId": None,
            "responseId": session.response_id,
            "responseCompletedAt": _instant(session.completed_at),
            "sentAt": instant(max(found.created_at, member.added_at)),
            "openedAt": None,
            "responseStartedAt": _instant(session.started_at),
            "surveySessionId": session.id,
        }

    return call.paged(recipients, shown, size=PAGE_SIZE)


class _Unopened(Struct, frozen=True):
    """The session of a link that nobody has opened."""

    id: None = None
    started_at: None = None
    completed_at: None = None
    response_id: None = None


def _status(session: Session | _Unopened) -> str:
    if session.started_at is None:
        return "Pending"
    return "SurveyStarted" if session.response_id is None else "SurveyFinished"


def _instant(at: int | None) -> str | None:
    return None if at is None else instant(at)


_DISTRIBUTION = "/distributions/{distribution:str}"

ENDPOINTS = (
    Endpoint("POST", "/distributions", "distributions", writes("distribution.create")),
    Endpoint("GET", "/distributions", "distributions", distributions),
    Endpoint("GET", _DISTRIBUTION, "distributions", distribution),
    Endpoint("DELETE", _DISTRIBUTION, "distributions", writes("distribution.delete")),
    Endpoint("GET", f"{_DISTRIBUTION}/links", "links", links),
    Endpoint("GET", f"{_DISTRIBUTION}/history", "history", history),
)
