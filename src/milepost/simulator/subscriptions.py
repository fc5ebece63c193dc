"""Wishes for calls about events."""

from __future__ import annotations

import re

from milepost.simulator import shapes
from milepost.simulator.things import Act, Outcome, Subscription
from milepost.simulator.wire import Refusal
from milepost.simulator.world import World

COMPLETED = "surveyengine.completedResponse"
"""The event that a response is completed; its topic ends with the survey's id (documented)."""

_TOPIC = re.compile(rf"{re.escape(COMPLETED)}\.(SV_[A-Za-z0-9]{{15}})", re.ASCII)


def create(world: World, act: Act) -> Outcome:
    """Subscribe. That an unknown topic is refused, and in which words, is our own."""
    body: shapes.SubscriptionBody = act.body
    topic = _TOPIC.fullmatch(body.topics)
    if topic is None or topic[1] not in world.surveys:
        raise Refusal(
            400, f"Invalid topics parameter. It must be {COMPLETED}. and the id of a survey"
        )
    if body.encrypt is True:
        raise Refusal(400, "The simulator sends no encrypted events: encrypt must be false")
    made = Subscription(
        id=act.mint("SUB"),
        ordinal=world.next_ordinal(),
        topics=body.topics,
        url=body.publication_url,
        survey_id=topic[1],
        shared_key=body.shared_key if isinstance(body.shared_key, str) else None,
    )
    world.subscriptions.add(made.id, made)
    return Outcome({"id": made.id}, {"subscription": made.id})


def delete(world: World, act: Act) -> Outcome:
    """End a subscription."""
    world.subscriptions.remove(of(world, act.ids).id)
    return Outcome()


def of(world: World, ids: dict[str, str]) -> Subscription:
    """The subscription of a path; 404 `ESSG_2` if there is none (observed)."""
    found = world.subscriptions.get(ids["subscription"])
    if found is None:
        raise Refusal(404, f"{ids['subscription']} not found", "ESSG_2")
    return found
