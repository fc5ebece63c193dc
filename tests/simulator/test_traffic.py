"""Limits, counts, latency, and the clock."""

from __future__ import annotations

import random
import statistics
import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import pytest

from milepost.simulator import CALL_CLASSES, PUBLISHED_LIMITS, Config
from milepost.simulator.endpoints import ENDPOINTS
from milepost.simulator.latency import Latency
from milepost.simulator.traffic import LeakyBucket, SlidingMinute, Traffic

Customer = Any
Start = Any


def test_a_minutes_calls_are_taken_at_once_and_the_next_a_minute_after_the_first() -> None:
    """Each is free again when its own minute is over; the wait is told in whole seconds."""
    now = 1000.0
    traffic = Traffic(60, {}, lambda: now)
    assert [traffic.admit("links") for _ in range(60)] == [0] * 60
    now += 0.5
    assert traffic.admit("links") == 60
    now += 59
    assert traffic.admit("links") == 1
    now += 0.5
    assert [traffic.admit("links") for _ in range(61)] == [0] * 60 + [60]
    now += 3600
    assert [traffic.admit("links") for _ in range(61)] == [0] * 60 + [60]


@pytest.mark.parametrize("pace", [0.0, 0.01, 0.05])
def test_no_60_seconds_let_more_than_the_limit_through(pace: float) -> None:
    """Wherever they begin, and whether the calls come in bursts or evenly."""
    now = 0.0
    traffic = Traffic(None, {"links": 500}, lambda: now)
    let_in = []
    for burst in range(40):
        for _ in range(700):
            if traffic.admit("links") == 0:
                let_in.append(now)
            now += pace
        now += 7.3 * (burst % 3)
    most = max(bisect_left(let_in, first + 60) - at for at, first in enumerate(let_in))
    assert most == 500
    assert len(let_in) >= 450 * (now // 60)


def test_a_limit_keeps_no_more_than_a_minutes_calls() -> None:
    """Memory does not grow with the calls that were ever made."""
    limit = SlidingMinute(1_000_000)
    for second in range(1_000):
        assert limit.wait(second) == 0
        limit.let_in(second)
    kept = limit._let_in  # noqa: SLF001 -- what it keeps is the subject
    assert len(kept) == 60


def test_a_bucket_leaks_evenly() -> None:
    """A minute's calls at once, then one whenever one has leaked; a pause fills nothing up."""
    now = 1000.0
    traffic = Traffic(None, {"links": 60}, lambda: now, kind="bucket")
    assert [traffic.admit("links") for _ in range(61)] == [0] * 60 + [1]
    now += 0.5
    assert traffic.admit("links") == 1
    now += 0.5
    assert [traffic.admit("links") for _ in range(2)] == [0, 1]
    now += 10
    assert [traffic.admit("links") for _ in range(11)] == [0] * 10 + [1]
    now += 3600
    assert [traffic.admit("links") for _ in range(61)] == [0] * 60 + [1]


@pytest.mark.parametrize("per_minute", [1, 7, 500, 3000])
def test_a_bucket_lets_its_rate_through_for_ever(per_minute: int) -> None:
    """Asked at exactly its pace it never refuses, whatever the rounding."""
    bucket = LeakyBucket(per_minute)
    for _ in range(per_minute):
        bucket.let_in(0.0)
    for number in range(1, 5000):
        now = number * 60 / per_minute
        assert bucket.wait(now) == 0
        bucket.let_in(now)


def test_a_class_has_its_own_limit_inside_the_brands() -> None:
    """A call that its class refuses takes nothing from the brand, and the other way round."""
    traffic = Traffic(3, {"links": 1}, lambda: 0.0)
    assert [traffic.admit("links"), traffic.admit("links")] == [0, 60]
    assert [traffic.admit("surveys") for _ in range(3)] == [0, 0, 60]
    assert traffic.calls["links"].throttled == 1
    assert traffic.calls["brand"].throttled == 2


def test_the_busiest_minute_slides() -> None:
    """It is the most within any 60 s, throttled calls included."""
    now = 0.0
    traffic = Traffic(None, {}, lambda: now)
    for at, calls in ((30, 5), (80, 5), (95, 1), (300, 1)):
        now = float(at)
        for _ in range(calls):
            traffic.admit("links")
    assert traffic.calls["links"].busiest_minute == 10
    assert traffic.calls["links"].calls == 12


@pytest.mark.parametrize("retry_after", [True, False])
def test_too_many_calls_are_429(start: Start, retry_after: bool) -> None:  # noqa: FBT001 - a parameter
    """In an envelope, with `Retry-After` where that is switched on; other classes go on."""
    own = start(limits={"mailing_lists": 2})
    own.control("PUT", "settings", {"retry_after": retry_after})
    path = own.mailing_list()
    own.mailing_list()
    answer = own.api.post(own.lists, json={"name": "one too many"})
    assert answer.status_code == 429
    assert answer.json()["meta"]["httpStatus"] == "429 - Too Many Requests"
    assert answer.headers.get("retry-after") == ("60" if retry_after else None)
    own.add(path)
    stats = own.control("GET", "stats")
    assert stats["classes"]["mailing_lists"] == {
        "calls": 3,
        "throttled": 1,
        "refused": 0,
        "accepted": 2,
        "busiest_minute": 3,
    }
    assert stats["brand"]["calls"] == 4
    assert stats["accepted_writes"] == 3
    own.control("DELETE", "stats")
    assert own.control("GET", "stats")["brand"] is None


@pytest.mark.parametrize(
    ("throttle", "content_type", "start_of_body"),
    [
        ("envelope", "application/json", b'{"meta"'),
        ("empty", "text/html", b""),
        ("html", "text/html", b"<html>"),
    ],
)
def test_a_429_comes_in_any_form(
    own: Customer, throttle: str, content_type: str, start_of_body: bytes
) -> None:
    """Nobody knows the real one; each keeps its `Retry-After`."""
    settings = {"limits": {"account": 1}, "facts": {"throttle": throttle}}
    own.control("PUT", "settings", settings)
    own.result("GET", "/whoami")
    answer = own.api.get("/whoami")
    assert answer.status_code == 429
    assert answer.headers["content-type"].startswith(content_type)
    assert answer.content.startswith(start_of_body)
    assert bool(start_of_body) == bool(answer.content)
    assert answer.headers["retry-after"] == "60"


def test_the_kind_of_limit_is_configured_and_set_while_it_runs(start: Start) -> None:
    """What the limits are stays; what came before counts no more."""
    own = start(limits={"account": 60}, limit_kind="bucket")
    assert own.control("GET", "settings")["limit_kind"] == "bucket"
    codes = [own.api.get("/whoami").status_code for _ in range(61)]
    assert codes == [200] * 60 + [429]
    settings = own.control("PUT", "settings", {"limit_kind": "window"})
    assert (settings["limit_kind"], settings["limits"]) == ("window", {"account": 60})
    assert own.api.get("/whoami").status_code == 200


@pytest.mark.parametrize(
    ("config", "limits", "rate"),
    [
        ({"limits": "published"}, PUBLISHED_LIMITS, 3000),
        ({"limits": "published", "rate_per_minute": 50}, PUBLISHED_LIMITS, 50),
        ({"limits": "none"}, {}, None),
        ({"limits": "none", "rate_per_minute": 50}, {}, 50),
        ({"limits": {"links": 5}}, {"links": 5}, None),
    ],
)
def test_limits_are_configured_and_set_while_it_runs(
    start: Start, own: Customer, config: dict[str, Any], limits: Mapping[str, int], rate: int | None
) -> None:
    """Published, none, or by class, beneath the brand's."""
    own.control("PUT", "settings", config)
    for settings in (start(**config).control("GET", "settings"), own.control("GET", "settings")):
        assert (settings["limits"], settings["rate_per_minute"]) == (dict(limits), rate)


@pytest.mark.parametrize(
    "config",
    [
        {"latency_ms": -1},
        {"latency_ms": 600_001},
        {"latency_ms": "fast"},
        {"latency_ms": "uniform:300:50"},
        {"latency_ms": "lognormal:0:50"},
        {"latency_ms": "lognormal:1:600001"},
        {"latency_ms": "9" * 5000},
        {"facts": {"late_links": True}},
        {"facts": {"late_link": "perhaps"}},
        {"facts": {"throttle": "silence"}},
        {"rate_per_minute": 0},
        {"limits": "some"},
        {"limits": {"nothing": 5}},
        {"limits": {"links": 0}},
    ],
)
def test_a_wrong_configuration_is_refused(shared: Customer, config: dict[str, Any]) -> None:
    """At the start and while it runs alike."""
    with pytest.raises(ValueError, match=r"limits|limit|class|latency|rate|fact|late_link"):
        Config(**config)
    before = shared.control("GET", "settings")
    assert shared.web.put("/control/settings", json=config).status_code == 400
    assert shared.control("GET", "settings") == before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "settings", {"unknown": 1}),
        ("PUT", "settings", {"latency_ms": True}),
        ("PUT", "settings", {"limit_kind": "sieve"}),
        ("PUT", "settings", {"notice": ""}),
        ("PUT", "settings", {"token_seconds": 0}),
        ("PUT", "settings", {"facts": {"late_link": None}}),
        ("PUT", "settings", {"deduplication_criteria": {"shoe_size": True}}),
        ("PUT", "settings", {"undeclared_fields": "maybe"}),
        ("PUT", "settings", {"declared_fields": ["x" * 201]}),
        ("PUT", "clock", {"now": "soon"}),
        ("PUT", "clock", {"now": "2300-01-01T00:00:00Z"}),
        ("PUT", "clock", {"advance_seconds": 1e300}),
        ("PUT", "clock", {"then": None}),
        ("POST", "faults", {"kind": "flood"}),
        ("POST", "faults", {"kind": "html", "call_class": "nothing"}),
        ("POST", "faults", {"kind": "html", "probability": 0}),
        ("POST", "faults", {"kind": "html", "times": 0}),
        ("GET", "journal?after=x", None),
        ("GET", "journal?after=-1", None),
        ("GET", "nothing", None),
    ],
)
def test_the_control_api_is_strict(shared: Customer, method: str, path: str, body: object) -> None:
    """A switch that was not understood is not half turned."""
    answer = shared.web.request(method, f"/control/{path}", json=body)
    assert answer.status_code == (404 if path == "nothing" else 400)
    assert answer.json().keys() == {"error"}


def test_the_clock_is_set_advanced_and_given_back(own: Customer) -> None:
    """It runs on from where it was set, and the account's moments follow it."""
    own.control("PUT", "clock", {"now": "2031-05-06T07:08:09Z"})
    found = own.result("GET", own.mailing_list())
    assert found["creationDate"].startswith("2031-05-06T07:08:")
    assert own.control("PUT", "clock", {"advance_seconds": 86400})["now"].startswith("2031-05-07")
    back = own.control("PUT", "clock", {"now": None})
    assert back["real"] is True
    assert back["now"][:4] == time.strftime("%Y", time.gmtime())


def test_latency_is_waited_before_the_answer(own: Customer) -> None:
    """By the API alone: neither the control API nor the survey page wait."""
    own.control("PUT", "settings", {"latency_ms": 120})
    began = time.monotonic()
    own.result("GET", "/whoami")
    assert time.monotonic() - began >= 0.12


def _times(given: int | str, count: int = 20_000) -> list[float]:
    latency, dice = Latency.read(given), random.Random(7)  # noqa: S311 - dice
    return [latency.seconds(dice) * 1000 for _ in range(count)]


def test_a_latency_is_a_distribution() -> None:
    """Fixed, uniform between two values, or lognormal by its median and 99th percentile."""
    assert {150} == set(_times(150, 10)) == set(_times("150", 10))
    uniform = _times("uniform:50:300")
    assert min(uniform) >= 50
    assert max(uniform) <= 300
    assert statistics.mean(uniform) == pytest.approx(175, rel=0.02)
    lognormal = statistics.quantiles(_times("lognormal:150:400"), n=100)
    assert lognormal[49] == pytest.approx(150, rel=0.02)
    assert lognormal[98] == pytest.approx(400, rel=0.05)


@pytest.mark.parametrize("given", [0, 150, "uniform:0.5:3", "lognormal:150:400"])
def test_a_latency_is_told_as_it_was_given(own: Customer, given: int | str) -> None:
    """So that it can be put back."""
    settings = own.control("PUT", "settings", {"latency_ms": given})
    assert settings["latency_ms"] == given
    own.result("GET", "/whoami")


def test_one_wrong_switch_turns_none(shared: Customer) -> None:
    """Neither those before it nor those behind it."""
    before = shared.control("GET", "settings")
    wanted = {"retry_after": False, "survey_active": False, "notice": "x", "limit_kind": "bucket"}
    for wrong in ({"latency_ms": "fast"}, {"limits": {"links": 0}}, {"facts": {"nothing": 1}}):
        assert shared.web.put("/control/settings", json=wanted | wrong).status_code == 400
        assert shared.control("GET", "settings") == before


def test_every_endpoint_has_a_known_class() -> None:
    """A limit or a fault can be given to each."""
    assert {one.call_class for one in ENDPOINTS} == set(CALL_CLASSES)
    assert PUBLISHED_LIMITS.keys() <= set(CALL_CLASSES)
