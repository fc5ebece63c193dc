"""Distributions, their links, and what became of them."""

from __future__ import annotations

from msgspec import Struct

from milepost.simulator.call import BRAND_ID, Call, Endpoint, writes
from milepost.simulator.distributions import in_history, listed
from milepost.simulator.links import FORM, Parts, written
from milepost.simulator.shapes import Listing
from milepost.simulator.things import BatchEntry, Distribution, Recipient, Session
from milepost.simulator.wire import PAGE_SIZE, Refusal, instant, page, second


def _link(call: Call, distribution: Distribution, one: Recipient) -> str:
    origin = call.account.origin
    if distribution.link_type == "Anonymous":
        return f"{origin}{FORM}/{distribution.survey_id}"
    parts = Parts(distribution.id, distribution.survey_id, one.id)
    return written(origin, parts, call.account.world.facts.link_format)


def _distribution(call: Call, found: Distribution) -> dict[str, object]:
    owner = call.account.world.owner_id
    recipients: dict[str, object] = {
        "mailingListId": found.list_id,
        "contactId": found.only,
        "libraryId": owner,
        "sampleId": None,
    }
    if found.batch_id is not None:
        recipients["transactionBatchId"] = found.batch_id  # inferred: nobody has shown one
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
        "recipients": recipients,
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
    """A distribution's links: one for each recipient there is now, as far as they are listed yet.

    Each page that shows somebody for the first time is noted; that is not an accepted write, so the
    journal does not hold it.
    """
    world = call.account.world
    found = world.distribution(call.ids, call.required("surveyId"))
    recipients = listed(world, found, call.account.now())
    shown, _ = page(recipients, call.query, size=PAGE_SIZE)
    if shown and shown[-1].ordinal > found.listed_up_to:
        listing = Listing(distribution=found.id, up_to=shown[-1].ordinal)
        await call.account.switch("distribution.list_links", listing)
    allowed = world.facts.frequency_rule

    def element(one: Recipient) -> dict[str, object]:
        contact = world.contacts[one.contact_id]
        return {
            "contactId": contact.id,
            "transactionId": one.id if isinstance(one, BatchEntry) else None,
            "link": _link(call, found, one),
            "exceededContactFrequency": 0 < allowed < contact.times_listed,
            "linkExpiration": second(found.expires_at),
            "status": "Email not sent",
            "lastName": contact.last_name,
            "firstName": contact.first_name,
            "externalDataReference": contact.ext_ref,
            "email": contact.email,
            "unsubscribed": contact.unsubscribed,
        }

    return call.paged(recipients, element, size=PAGE_SIZE)


async def history(call: Call) -> object:
    """What became of each link; 400 where there is no recipient (observed).

    That a transaction stands where a lookup id does is inferred: it is what the link names.
    """
    world = call.account.world
    found = world.distribution(call.ids)
    recipients = in_history(world, found)
    if not recipients:
        raise Refusal(400, "No recipients found for the distribution", "CP_TD_GER_NP")

    def element(one: Recipient) -> dict[str, object]:
        session = found.sessions.get(one.id) or _Unopened()
        return {
            "contactId": one.contact_id,
            "contactLookupId": one.id,
            "distributionId": found.id,
            "status": _status(session) or world.facts.unopened_status,
            "surveyLink": _link(call, found, one),
            "contactFrequencyRuleId": None,
            "responseId": session.response_id,
            "responseCompletedAt": _instant(session.completed_at),
            "sentAt": instant(max(found.created_at, one.added_at)),
            "openedAt": None,
            "responseStartedAt": _instant(session.started_at),
            "surveySessionId": session.id,
        }

    return call.paged(recipients, element, size=PAGE_SIZE)


class _Unopened(Struct, frozen=True):
    """The session of a link that nobody has opened."""

    id: None = None
    started_at: None = None
    completed_at: None = None
    response_id: None = None


def _status(session: Session | _Unopened) -> str | None:
    if session.started_at is None:
        return None
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
