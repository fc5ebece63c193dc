"""Bodies that nobody thought of: whatever is sent, the answer is never a mistake of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost.api import requests
from milepost.errors import InvalidRequest
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


@in_a_test
@given(batch=st.lists(events | values, max_size=8), other=st.none() | values)
async def test_any_batch(client: httpx.AsyncClient, batch: list[object], other: object) -> None:
    """A few hundred bodies for `POST /v1/links/batch`: each event has one outcome, in its place."""
    body = {"events": batch} if other is None else {"events": batch, "deadline_ms": other}
    answer = await client.post("/v1/links/batch", json=body)
    told(answer)
    if answer.status_code == 200:
        results, counts = answer.json()["results"], answer.json()["counts"]
        assert list(range(len(batch))) == [result["index"] for result in results]
        assert len(batch) == sum(counts.values())
        assert all(("link" in result) != ("problem" in result) for result in results)
    else:
        assert other is not None


names = st.sampled_from(["a", "b", "a:", ":", '"', '":', "\\", "\\u003a", "é", ""]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3
)


def written(value: object, escaped: Sequence[str]) -> str:
    """JSON, with the pairs of its objects as they come, and some characters as escapes."""
    if isinstance(value, str):
        letters = (
            f"\\u{ord(letter):04x}" if letter in escaped else json.dumps(letter)[1:-1]
            for letter in value
        )
        return f'"{"".join(letters)}"'
    if isinstance(value, tuple):
        pairs = (f"{written(name, escaped)} : {written(item, escaped)}" for name, item in value)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(written(item, escaped) for item in value)}]"
    return json.dumps(value)


def twins(value: object) -> bool:
    """Whether a name stands twice in one object."""
    if isinstance(value, tuple):
        given = [name for name, _ in value]
        return len(set(given)) < len(given) or any(twins(item) for _, item in value)
    return isinstance(value, list) and any(twins(item) for item in value)


@settings(max_examples=2_000, deadline=None, derandomize=True)
@given(
    value=st.recursive(
        names | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.lists(st.tuples(names, inner), max_size=3).map(tuple)
        ),
        max_leaves=8,
    ),
    escaped=st.lists(st.sampled_from([":", "a", '"', "é"])),
)
def test_a_name_that_stands_twice_is_found_wherever_it_is(
    value: object, escaped: list[str]
) -> None:
    """And no other body is refused for it, whatever its texts hold."""
    body = written(value, escaped).encode()
    if twins(value):
        with pytest.raises(InvalidRequest, match="stands twice"):
            requests.decode(body, object)
    else:
        requests.decode(body, object)
