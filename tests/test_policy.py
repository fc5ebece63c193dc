"""The pure decisions."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import InvalidMilestone
from milepost.model import MilestoneDefinition, RegistrantDetails
from milepost.policy import (
    DEDUP_CRITERIA,
    EXPLANATIONS,
    check_definition,
    contact_key,
    sample_point,
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
        ({"route": "anonymous"}, "route"),
        ({"lanes": ["direct", "direct", "deferred"]}, "lanes"),
        ({"lanes": ["deferred", "direct"]}, "lanes"),
        ({"slots": 4, "max_slots": 3}, "max_slots"),
        ({"link_days": 14}, "min_link_days"),
        ({"fields": [{"name": "gate"}, {"name": "gate"}]}, "fields"),
        ({"fields": [{"name": "Milepost_Ref"}]}, "fields"),
        ({"fields": [{"name": "gate"}], "membership": "ahead"}, "late_data"),
        ({"lanes": ["direct", "deferred"], "membership": "ahead"}, "lanes"),
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
