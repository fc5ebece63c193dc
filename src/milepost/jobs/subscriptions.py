"""Subscriptions to the platform's event calls. No job: a person asks for them.

A subscription is known again by its topic and by where its calls go. With which key one was made
the platform does not show.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from milepost.upstream import Upstream

TOPIC: Final = "surveyengine.completedResponse"
"""The event that a response is completed; the survey's id follows it (documented)."""

PATH: Final = "/v1/upstream/events"


def address(public_url: str) -> str:
    """Where the calls are to go."""
    return f"{public_url}{PATH}"


async def lacking(upstream: Upstream, surveys: Collection[str], url: str) -> list[str]:
    """Of which of these surveys no completed response is told at this address, in order."""
    wanted = set(surveys)
    async for subscription in upstream.subscriptions():
        if subscription.publication_url == url:
            wanted -= {
                topic.strip().rpartition(".")[2]
                for topic in subscription.topics.split(",")
                if f"{TOPIC}." in topic
            }
    return sorted(wanted)


async def subscribe(upstream: Upstream, survey_id: str, url: str, key: str) -> str:
    """Ask for the calls of one survey; returns the subscription, `SUB_…`.

    Where the answer is lost, ask what is lacking again: a second subscription brings each call
    twice, which does no harm.

    Raises:
        CallFailed: as the client's verbs.
    """
    return await upstream.create_subscription(f"{TOPIC}.{survey_id}", url, key)
