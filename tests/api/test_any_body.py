"""Bodies that nobody thought of: whatever is sent, the answer is never a mistake of ours."""

from __future__ import annotations

from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost.model import Lane, MilestoneDefinition, Route

in_a_test = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.text(max_size=30) | st.sampled_from(["ann", "landed", "e1", "2026-11-23T21:10:00Z"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Right two times of three."""
    return good | good | values


events = st.fixed_dictionaries(
    {
        "event_id": mostly(texts),
        "milestone": mostly(st.just("landed")),
        "registrant": mostly(st.just("ann") | st.fixed_dictionaries({"ref": texts})),
    },
    optional={
        "data": mostly(st.dictionaries(st.sampled_from(["flight", "gate"]), values, max_size=2)),
        "occurred_at": mostly(
            st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat())
        ),
        "deadline_ms": mostly(st.integers(1, 20)),
    },
)
definitions = st.fixed_dictionaries(
    {"survey_id": mostly(st.just("SV_000000000000001"))},
    optional={
        name: mostly(
            {
                "route": st.sampled_from(list(Route)),
                "lanes": st.lists(st.sampled_from(list(Lane)), max_size=3),
                "fields": st.lists(st.fixed_dictionaries({"name": texts}), max_size=3),
                "repeat": st.sampled_from(["once", "every_event", {"cooldown_days": 5}]),
                "quiet": st.fixed_dictionaries({"links": st.integers(), "days": st.integers()}),
                "name": texts,
            }.get(name, st.integers(-5, 100))
        )
        for name in MilestoneDefinition.__struct_fields__
        if name != "survey_id"
    },
)


def told(answer: httpx.Response) -> None:
    """The answer is one that the API documents."""
    assert answer.status_code in {200, 201, 202, 400, 404, 409, 422}, answer.text
    problem = answer.status_code >= 400
    kind = "application/problem+json" if problem else "application/json"
    assert kind == answer.headers["Content-Type"]


@in_a_test
@given(event=events | values)
async def test_any_event(client: httpx.AsyncClient, event: object) -> None:
    """A few hundred bodies for `POST /v1/links`."""
    told(await client.post("/v1/links", json=event))


@in_a_test
@given(definition=definitions | values, key=st.just("landed") | texts.filter(str.isalnum))
async def test_any_milestone(client: httpx.AsyncClient, definition: object, key: str) -> None:
    """A few hundred bodies for `PUT /v1/milestones/{key}`, some with keys that are none."""
    told(await client.put(f"/v1/milestones/{key}", json=definition))
    told(await client.get("/v1/milestones"))
