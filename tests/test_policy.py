"""The pure decisions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import InvalidMilestone
from milepost.model import (
    Capabilities,
    Capability,
    Demand,
    Fact,
    MilestoneDefinition,
    PoolStanding,
    RegistrantDetails,
    Route,
    SlotStanding,
)
from milepost.policy import (
    BATCH_LINKS,
    DEDUP_CRITERIA,
    EXPLANATIONS,
    LISTED_LATE,
    batches_wanted,
    cautions,
    check_account,
    check_definition,
    contact_key,
    headroom_days,
    is_low,
    making_pause,
    needs_successor,
    probing,
    rotation_lead,
    sample_point,
    slots_wanted,
)

ANN = RegistrantDetails(
    email=" Ann@Example.com ", first_name="Zoë", last_name="Straße", phone="+49 1"
)


def test_contact_keys_are_the_same_for_ever() -> None:
    """Stored keys stay good: these values may never change."""
    assert "3928b9703a03887561f08a26283b5423" == contact_key("r-1", ANN, DEDUP_CRITERIA)
    assert "68cfe93aa3b81350c0d65d5acf8ff59d" == contact_key("r-1", RegistrantDetails(), ())
    assert "ded1513fbe841c98a68daa55bc6ead9c" == contact_key("r-1", ANN, {"email"})


def test_a_contact_is_known_again_whatever_the_case() -> None:
    """Case, outer blanks and the way an accent is written make no other contact; a value does."""
    same = RegistrantDetails(email="ANN@example.COM", first_name="ZOE\u0308")
    assert contact_key("a", ANN, {"email", "first_name"}) == contact_key(
        "b", same, {"email", "first_name"}
    )
    assert contact_key("a", ANN, {"email", "ref"}) != contact_key("b", ANN, {"email", "ref"})


@pytest.mark.parametrize("missing", ["email", "first_name", "last_name", "phone"])
def test_a_missing_value_gives_no_key(missing: str) -> None:
    """A registrant who lacks one criterion cannot be told from others, blanks count as missing."""
    for value in (None, "", " "):
        details = msgspec.structs.replace(ANN, **{missing: value})
        assert None is contact_key("r", details, DEDUP_CRITERIA)


def test_sample_points_are_the_same_for_ever() -> None:
    """A retry years later meets the same decision: these values may never change."""
    assert [0.4976562831160436, 8.783278237367398] == [sample_point("e1"), sample_point("é")]


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_sample_points_are_below_a_hundred(event_id: str) -> None:
    """A sample of 100 per cent takes every event."""
    assert 0 <= sample_point(event_id) < 100


def test_samples_are_about_as_large_as_asked_for() -> None:
    """Of ten thousand events a tenth is in each tenth, within a few standard deviations."""
    points = [sample_point(f"event-{number}") for number in range(10_000)]
    for tenth in range(0, 100, 10):
        assert 880 < sum(tenth <= point < tenth + 10 for point in points) < 1_120


def test_every_rule_is_explained() -> None:
    """Each verdict with a rule that a claim has comes with its sentence; none is left over.

    Why no call can be made, and what a call has shown, is told to them from outside. Of a revoked
    link it is said in whatever state.
    """
    outside = {"waiting/budget-spent", "waiting/upstream-away", "waiting/calls-under-way"}
    outside |= {"issued/data-unseen"}
    sql = files("milepost.store").joinpath("sql")
    claim = sql.joinpath("claim.sql").read_text()
    verdicts = set(re.findall(r"THEN '([a-z]+/[a-z-]+)'|ELSE '([a-z]+/[a-z-]+)'", claim))
    ended = set(re.findall(r"THEN '([a-z-]+)'", sql.joinpath("late_data_claim.sql").read_text()))
    decided = {one or other for one, other in verdicts} | {f"issued/{rule}" for rule in ended}
    assert decided | outside == set(EXPLANATIONS) | {"issued/revoked"}
    assert all(sentence.endswith(".") for sentence in EXPLANATIONS.values())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"route": "transaction", "membership": "ahead"}, "membership"),
        ({"lanes": ["direct", "direct", "deferred"]}, "lanes"),
        ({"lanes": ["deferred", "direct"]}, "lanes"),
        ({"slots": 4, "max_slots": 3}, "max_slots"),
        ({"link_days": 14}, "min_link_days"),
        ({"fields": [{"name": "gate"}, {"name": "gate"}]}, "fields"),
        ({"fields": [{"name": "Milepost_Ref"}]}, "fields"),
        ({"fields": [{"name": "gate"}], "membership": "ahead"}, "late_data"),
        ({"lanes": ["direct", "deferred"], "membership": "ahead"}, "lanes"),
        ({"route": "anonymous", "membership": "ahead", "late_data": True}, "membership"),
    ],
)
def test_a_milestone_that_cannot_work_is_refused(changes: dict[str, Any], field: str) -> None:
    """The field that stands in the way is named, and what to write instead."""
    definition = msgspec.convert({"survey_id": "SV_000000000000001"} | changes, MilestoneDefinition)
    with pytest.raises(InvalidMilestone) as refused:
        check_definition(definition)
    assert field == refused.value.field
    assert refused.value.fix


def test_the_defaults_work() -> None:
    """A milestone needs no more than its survey."""
    check_definition(MilestoneDefinition(survey_id="SV_000000000000001"))


def account(*lacking: Fact, figure: int | None = None) -> Capabilities:
    """An account on which everything was tried, and these facts do not hold."""
    known = {
        fact: Capability(
            fact=fact,
            holds=fact not in lacking,
            figure=figure,
            evidence="tried",
            probed_at=datetime(2026, 11, 26, tzinfo=UTC),
        )
        for fact in Fact
    }
    return Capabilities(known)


def of_route(route: str, **changes: Any) -> MilestoneDefinition:
    """A milestone of a route."""
    given = {"survey_id": "SV_000000000000001", "route": route} | changes
    return msgspec.convert(given, MilestoneDefinition)


@pytest.mark.parametrize(
    ("route", "lacking", "instead"),
    [
        ("list", [Fact.PROBE_ONLY_DISTRIBUTION], 'route "transaction" or "stepwise", or have'),
        ("list", [Fact.ONE_CONTACT], 'route "transaction" or "stepwise", or have merging'),
        ("list", [Fact.ONE_CONTACT, Fact.TRANSACTION_BATCH], 'route "stepwise", or have'),
        ("transaction", [Fact.TRANSACTION_BATCH], 'route "list" or "stepwise", or have'),
        (
            "transaction",
            [Fact.TRANSACTION_BATCH, Fact.PROBE_ONLY_DISTRIBUTION],
            'route "stepwise", or have',
        ),
        ("anonymous", [Fact.PROBE_ONLY_DISTRIBUTION], "or have the platform's support allow it"),
    ],
)
def test_a_route_is_refused_where_the_account_does_not_allow_it(
    route: str, lacking: list[Fact], instead: str
) -> None:
    """With the routes that it does allow; who is on it already goes on."""
    definition = of_route(route)
    with pytest.raises(InvalidMilestone) as refused:
        check_account(definition, account(*lacking))
    assert "route" == refused.value.field
    assert instead in (refused.value.fix or "")
    check_account(definition, account(*lacking), definition)
    check_account(definition, Capabilities())


@pytest.mark.parametrize("route", Route)
def test_a_route_is_refused_for_its_own_needs_alone(route: Route) -> None:
    """What others rest on does not matter, and nothing keeps one from going step by step."""
    needs = {
        Route.LIST: {Fact.PROBE_ONLY_DISTRIBUTION, Fact.ONE_CONTACT},
        Route.TRANSACTION: {Fact.TRANSACTION_BATCH},
        Route.ANONYMOUS: {Fact.PROBE_ONLY_DISTRIBUTION},
        Route.STEPWISE: set(),
    }[route]
    check_account(of_route(route), account(*(set(Fact) - needs)))


@pytest.mark.parametrize(
    ("route", "lacking", "codes"),
    [
        ("list", Fact.TRANSACTION_BATCH, []),
        ("list", Fact.LATE_LINK, ["links-listed"]),
        ("transaction", Fact.LATE_LINK, []),
        ("transaction", Fact.TRANSACTION_BATCH, ["batches-refused"]),
        ("stepwise", Fact.ONE_CONTACT, []),
        ("stepwise", Fact.TRANSACTION_BATCH, ["one-link-at-a-time"]),
        ("stepwise", Fact.PRIVATE_DATA, []),
        ("anonymous", Fact.ONE_CONTACT, []),
        ("anonymous", Fact.PROBE_ONLY_DISTRIBUTION, ["pool-not-ahead"]),
    ],
)
def test_only_what_concerns_a_route_is_cautioned_for_it(
    route: str, lacking: Fact, codes: list[str]
) -> None:
    """What was never tried is named in the same way."""
    assert codes == [one.code for one in cautions(of_route(route), account(lacking))]
    (untried,) = cautions(of_route(route), Capabilities())
    assert "not-probed" == untried.code
    assert (lacking in untried.detail) == bool(codes)


def test_fields_of_an_anonymous_milestone_are_the_ledgers_alone() -> None:
    """They are kept and joined by the reference, and whoever declares them is told so."""
    definition = of_route("anonymous", fields=[{"name": "gate"}])
    check_definition(definition)
    assert ["fields-in-ledger-alone"] == [one.code for one in cautions(definition, account())]


def test_private_data_concern_a_stepwise_milestone_without_batches() -> None:
    """Then its data are a list's as well."""
    lacking = account(Fact.TRANSACTION_BATCH, Fact.PRIVATE_DATA)
    codes = [one.code for one in cautions(of_route("stepwise"), lacking)]
    assert ["one-link-at-a-time", "data-not-in-survey"] == codes


NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ATONCE = timedelta(0)


def slot(number: int = 1, **more: Any) -> SlotStanding:
    """A slot that takes links for twenty days still."""
    ready = {
        "planned_at": NOW - timedelta(days=26),
        "generation": 1,
        "takes_until": NOW + timedelta(days=20),
        "ready_at": NOW - timedelta(days=26),
        "was_ready": True,
        "is_making": False,
        "stops": 0,
        "stopped_at": None,
    }
    return SlotStanding(slot_id=number, number=number, **(ready | more))


def never_ready(number: int, stops: int, ago: timedelta = ATONCE) -> SlotStanding:
    """A slot whose distributions were all stopped, the last one that long ago."""
    nothing = {"takes_until": None, "ready_at": None, "was_ready": False}
    return slot(number, stops=stops, stopped_at=NOW - ago, generation=stops, **nothing)


def pool(*slots: SlotStanding, **more: Any) -> PoolStanding:
    """A pool that starts with three slots and ends with ten."""
    known = {"least": 3, "most": 10, "link_days": 60, "min_link_days": 14, "is_tended": True}
    return PoolStanding(now=NOW, survey_id="SV_1", route=Route.LIST, slots=slots, **(known | more))


THREE = (slot(1), slot(2), slot(3))


@pytest.mark.parametrize(
    ("held", "recent", "wanted"),
    [
        (0, 0, 3),
        (2, 2, 3),  # their next link finds the third
        (3, 3, 4),
        (2, 14, 5),  # two a day: those of tomorrow, and one
        (6, 42, 10),  # would be 13
    ],
)
def test_a_pool_grows_to_what_the_busiest_needs_in_a_day(
    held: int, recent: int, wanted: int
) -> None:
    """At their pace of the last week, at once, and up to `max_slots`."""
    people = [Demand(0, 1), Demand(held, recent), Demand(1, 0)]
    assert wanted == slots_wanted(pool(*THREE), people, ATONCE, is_full=False)


def test_a_pool_grows_for_longer_where_making_takes_longer() -> None:
    """Three days more, where links are listed late."""
    people = [Demand(2, 7)]
    assert 4 == slots_wanted(pool(*THREE), people, ATONCE, is_full=False)
    assert 7 == slots_wanted(pool(*THREE), people, LISTED_LATE, is_full=False)


def test_a_pool_grows_by_one_when_somebody_is_in_the_highest_slot() -> None:
    """Whatever the forecast says; and it never shrinks, nor has less than it starts with."""
    assert 3 == slots_wanted(pool(), [], ATONCE, is_full=False)
    assert 4 == slots_wanted(pool(*THREE), [], ATONCE, is_full=True)
    assert 3 == slots_wanted(pool(*THREE, least=1, most=2), [], ATONCE, is_full=True)


def test_a_pool_does_not_grow_while_its_highest_slot_takes_no_links() -> None:
    """A platform whose links are not trusted is not given one list after the other."""
    people = [Demand(5, 7)]
    for highest in (never_ready(3, 1), never_ready(3, 2), slot(3, ready_at=None, is_making=True)):
        assert 3 == slots_wanted(pool(*THREE[:2], highest), people, ATONCE, is_full=True)


def test_a_slot_that_is_never_trusted_gets_another_in_its_place() -> None:
    """It blocks nothing for ever: it counts no more, neither for the start nor for growth."""
    lame = never_ready(3, 3)
    assert 4 == slots_wanted(pool(*THREE[:2], lame), [], ATONCE, is_full=False)
    whole = pool(*THREE[:2], lame, slot(4))
    assert 4 == slots_wanted(whole, [], ATONCE, is_full=False)
    assert 5 == slots_wanted(whole, [], ATONCE, is_full=True)
    assert 8 == slots_wanted(whole, [Demand(6, 0)], ATONCE, is_full=False)


def test_a_successor_is_begun_three_days_before_or_a_quarter_of_the_time() -> None:
    """Whichever is less, of the time for which a distribution takes links."""
    assert timedelta(days=3) == rotation_lead(60, 14, listed_late=False)
    assert timedelta(hours=30) == rotation_lead(8, 3, listed_late=False)
    assert timedelta(hours=6) == rotation_lead(1, 0, listed_late=False)
    lead = timedelta(days=3)
    assert not needs_successor(slot(), NOW + timedelta(days=17) - timedelta(seconds=1), lead)
    assert needs_successor(slot(), NOW + timedelta(days=17), lead)
    assert not needs_successor(slot(is_making=True), NOW + timedelta(days=17), lead)
    assert needs_successor(slot(takes_until=None), NOW, ATONCE)


def test_where_links_are_listed_late_a_successor_is_begun_three_days_before() -> None:
    """Also of what takes links for less than twelve days; but not more than one each day."""
    days = [(60, 14), (9, 3), (4, 0), (3, 0), (2, 0), (1, 0)]
    leads = [rotation_lead(*each, listed_late=True) / timedelta(hours=1) for each in days]
    assert [72, 72, 72, 48, 24, 6] == leads


def test_what_is_not_trusted_is_tried_again_ever_less_often() -> None:
    """After an hour, two, four, and so on; never more than a day apart."""
    for stops, hours in ((1, 1), (2, 2), (5, 16), (6, 24), (500, 24)):
        early, late = timedelta(hours=hours, seconds=-1), timedelta(hours=hours)
        assert not needs_successor(never_ready(1, stops, early), NOW, ATONCE)
        assert needs_successor(never_ready(1, stops, late), NOW, ATONCE)


def test_what_failed_is_left_alone_for_twice_as_long_each_time() -> None:
    """From five seconds to two minutes."""
    found = [making_pause(attempt).total_seconds() for attempt in (1, 2, 5, 6, 100)]
    assert [5, 10, 80, 120, 120] == found


@pytest.mark.parametrize(
    ("slots", "people", "days"),
    [
        ((), (), None),
        (THREE, (), 20.0),
        ((*THREE, slot(4, takes_until=NOW + timedelta(days=2))), (), 2.0),
        ((*THREE, never_ready(4, 1)), (), 20.0),  # in the making: nobody has counted on it yet
        ((*THREE, slot(4, takes_until=None, ready_at=None)), (), 0.0),
        ((never_ready(1, 1),), (), 0.0),
        (THREE, (Demand(4, 7), Demand(1, 2)), 6.0),  # six places, one a day
        (THREE, (Demand(12, 7),), 0.0),
        (THREE, (Demand(10, 0),), 20.0),
    ],
)
def test_headroom_ends_with_the_first_slot_or_the_busiest_person(
    slots: tuple[SlotStanding, ...], people: tuple[Demand, ...], days: float | None
) -> None:
    """In days; and no number where there is no pool."""
    assert days == headroom_days(pool(*slots), people)


def test_a_pool_is_low_before_it_ends_and_where_it_does_not_begin() -> None:
    """Below half of the lead; an hour behind its planning, if no slot ever took links."""
    ends = [slot(takes_until=NOW + timedelta(days=days)) for days in (1.4, 1.6)]
    assert [True, False] == [is_low(pool(one), headroom_days(pool(one), [])) for one in ends]
    begun = [
        slot(ready_at=None, takes_until=None, was_ready=False, planned_at=NOW - timedelta(**ago))
        for ago in ({"minutes": 61}, {"minutes": 59})
    ]
    assert [True, False] == [is_low(pool(one), 0) for one in begun]
    assert not is_low(pool(), None)


@pytest.mark.parametrize(
    ("newest", "wanted"),
    [
        (slot(4), 4),
        (slot(4, links=BATCH_LINKS - 1), 4),
        (slot(4, links=BATCH_LINKS), 5),
        (slot(4, links=BATCH_LINKS - 7_500, lately=7_499), 4),
        (slot(4, links=BATCH_LINKS - 7_500, lately=7_500), 5),
        (slot(4, was_missed=True), 5),
        (slot(4, was_missed=True, is_making=True), 4),
        (slot(4, takes_until=NOW + timedelta(days=2)), 5),
        (slot(4, takes_until=None, links=BATCH_LINKS, is_making=True), 4),
    ],
)
def test_another_batch_is_made_when_the_newest_soon_takes_no_more(
    newest: SlotStanding, wanted: int
) -> None:
    """By its date, because it is full before long, or because the platform does not know it."""
    assert wanted == batches_wanted(pool(newest), timedelta(days=3))


def test_the_first_batch_is_made_at_once() -> None:
    """There is one, whatever the milestone says of slots."""
    assert 1 == batches_wanted(pool(), ATONCE)


def test_what_only_an_answer_tells_is_said_to_take_one() -> None:
    """Who has probed without answering the survey is told what is left to do."""
    by_an_answer = [Fact.LATE_LINK, Fact.PRIVATE_DATA]
    assert "answer the survey" in probing(by_an_answer)
    assert "answer" not in probing([*by_an_answer, Fact.ONE_CONTACT])
