"""Who wants to be called about completed responses."""

from __future__ import annotations

from milepost.simulator import subscriptions
from milepost.simulator.call import BRAND_ID, Call, Endpoint, writes
from milepost.simulator.things import Subscription


def _subscription(call: Call, found: Subscription) -> dict[str, object]:
    """A subscription as it is read back; its key is not."""
    return {
        "id": found.id,
        "scope": BRAND_ID,
        "topics": found.topics,
        "publicationUrl": found.url,
        "encrypted": False,
        "successfulCalls": call.account.deliveries.delivered.get(found.id, 0),
    }


async def list_subscriptions(call: Call) -> object:
    """The brand's subscriptions, in the order in which they were made."""
    return call.paged(
        call.account.world.subscriptions.in_order, lambda found: _subscription(call, found)
    )


async def subscription(call: Call) -> object:
    """One subscription."""
    return _subscription(call, subscriptions.of(call.account.world, call.ids))


_ALL = "/eventsubscriptions"
_ONE = f"{_ALL}/{{subscription:str}}"

ENDPOINTS = (
    Endpoint("POST", _ALL, "subscriptions", writes("subscription.create")),
    Endpoint("GET", _ALL, "subscriptions", list_subscriptions),
    Endpoint("GET", _ONE, "subscriptions", subscription),
    Endpoint("DELETE", _ONE, "subscriptions", writes("subscription.delete")),
)
