"""The tables as SQLAlchemy Core sees them, for the everyday statements.

The migrations are the truth; a test holds the two together. Constraints that only the database
enforces (CHECKs) are not written here again.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from milepost.store.connections import storable

metadata = MetaData()

Moment = DateTime(timezone=True)
Word = Text(collation="C")
"""A text that is compared byte by byte: keys, refs, ids."""


class Said(TypeDecorator[str]):
    """A text of whatever origin: an error, what stands in a file."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: object) -> str | None:
        """Bring it into a form that can be stored."""
        return None if value is None else storable(value)


def _row_id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


deployment = Table(
    "deployment",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("id", Text, nullable=False),
    Column("fingerprint_key", LargeBinary, nullable=False),
    Column("directory_id", Text),
    Column("dedup_criteria", ARRAY(Text)),
    Column("home_list_id", Text),
    Column("home_attempt", Integer, nullable=False, server_default=text("0")),
    Column("home_lease_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("home_listed_at", Moment),
    Column("recovered_at", Moment),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Word, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
)

milestones = Table(
    "milestones",
    metadata,
    Column("key", Word, primary_key=True),
    Column("survey_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("membership", Text, nullable=False),
    Column("lanes", ARRAY(Text), nullable=False),
    Column("repeat", Text, nullable=False),
    Column("cooldown_days", Integer),
    Column("sample_percent", Double, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("max_slots", Integer, nullable=False),
    Column("when_full", Text, nullable=False),
    Column("link_days", Integer, nullable=False),
    Column("min_link_days", Integer, nullable=False),
    Column("fields", JSONB, nullable=False),
    Column("quiet_links", Integer),
    Column("quiet_days", Integer),
    Column("unknown_registrant", Text, nullable=False),
    Column("late_data", Boolean, nullable=False),
    Column("deadline_ms", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("stopped_at", Moment),
    Column("stopped_because", Said),
    Column("stopped_expected", Said),
    Column("stopped_found", Said),
    Column("trusted_at", Moment),
    Column("resumed_at", Moment),
    Column("stop_seen_at", Moment),
    Column("pool_low_at", Moment),
    Column("reminders", JSONB(none_as_null=True)),
    Column("reminders_until", Moment),
)

registrants = Table(
    "registrants",
    metadata,
    _row_id(),
    Column("ref", Word, nullable=False),
    Column("email", Text),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("phone", Text),
    Column("language", Text),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'")),
    Column("contact_key", Word),
    Column("dedup_key", Word),
    Column("contact_id", Text),
    Column("home_lookup_id", Text),
    Column("contact_at", Moment),
    Column("contact_attempt", Integer, nullable=False, server_default=text("0")),
    Column("contact_lease_until", Moment),
    Column("contact_in_doubt", Boolean, nullable=False, server_default=text("false")),
    Column("contact_looks", Integer, nullable=False, server_default=text("0")),
    Column("contact_first_look_at", Moment),
    Column("opted_out_at", Moment),
    Column("erased_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("source", Text),
    Column("removed_at", Moment),
    Column("contact_stale", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("ref", name="registrants_ref"),
    UniqueConstraint("dedup_key", name="registrants_dedup_key"),
    Index(
        "registrants_contact_key", "contact_key", postgresql_where=text("contact_key IS NOT NULL")
    ),
    Index(
        "registrants_without_contact",
        "id",
        postgresql_where=text("home_lookup_id IS NULL AND dedup_key IS NOT NULL"),
    ),
    Index("registrants_contact", "contact_id", postgresql_where=text("contact_id IS NOT NULL")),
    Index("registrants_stale", "id", postgresql_where=text("contact_stale")),
)

slots = Table(
    "slots",
    metadata,
    _row_id(),
    Column("milestone", Word, ForeignKey("milestones.key")),
    Column("survey_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("list_name", Text, nullable=False),
    Column("list_id", Text, unique=True),
    Column("probe_contact_id", Text),
    Column("probe_lookup_id", Text),
    Column("rests_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("list_at", Moment),
    Column("route", Text, nullable=False, server_default=text("'list'")),
    Column("batch_id", Text, unique=True),
    UniqueConstraint("milestone", "survey_id", "route", "number", name="slots_number"),
    Index(
        "slots_one_canary",
        "survey_id",
        "route",
        unique=True,
        postgresql_where=text("milestone IS NULL"),
    ),
)

distributions = Table(
    "distributions",
    metadata,
    _row_id(),
    Column("slot_id", BigInteger, ForeignKey("slots.id"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("distribution_id", Text, unique=True),
    Column("template", Text),
    Column("state", Text, nullable=False),
    Column("stopped_because", Said),
    Column("last_error", Said),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("lease_until", Moment),
    Column("expires_at", Moment),
    Column("takes_until", Moment),
    Column("calibrated_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("made_at", Moment),
    Column("list_misses", Integer, nullable=False, server_default=text("0")),
    Column("opened", Integer),
    Column("started", Integer),
    Column("finished", Integer),
    Column("reconciled_at", Moment),
    Column("given_up_at", Moment),
    UniqueConstraint("slot_id", "generation"),
    Index("distributions_in_the_making", "id", postgresql_where=text("state = 'making'")),
)

links = Table(
    "links",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("event_id", Word, nullable=False),
    Column("milestone", Word, ForeignKey("milestones.key"), nullable=False),
    Column("survey_id", Text, nullable=False),
    Column("ref", Word, nullable=False),
    Column("registrant_id", BigInteger, ForeignKey("registrants.id")),
    Column("occurred_at", Moment),
    Column("data", JSONB, nullable=False),
    Column("fingerprint", JSONB, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("rule", Text),
    Column("rule_until", Moment),
    Column("rule_detail", Text),
    Column("route", Text),
    Column("lane", Text),
    Column("published", Text),
    Column("attempt", Integer, nullable=False),
    Column("lease_until", Moment),
    Column("waiting_until", Moment),
    Column("looks", Integer, nullable=False, server_default=text("0")),
    Column("first_look_at", Moment),
    Column("slot_id", BigInteger, ForeignKey("slots.id")),
    Column("distribution_id", BigInteger, ForeignKey("distributions.id")),
    Column("contact_key", Word),
    Column("lookup_id", Word),
    Column("url", Text),
    Column("reuses", Uuid, ForeignKey("links.id")),
    Column("upstream_calls", Double, nullable=False, server_default=text("0")),
    Column("expires_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("issued_at", Moment),
    Column("data_at", Moment),
    Column("finished_at", Moment),
    Column("token", Word),
    Column("short_url", Text),
    Column("due_at", Moment),
    Column("lost", Integer, nullable=False, server_default=text("0")),
    Column("clicked_at", Moment),
    Column("revoked_at", Moment),
    Column("data_due_at", Moment),
    Column("steps", JSONB(none_as_null=True)),
    Column("delivered_at", Moment),
    Column("opened_at", Moment),
    Column("started_at", Moment),
    Column("response_id", Text),
    Column("look_due_at", Moment),
    Column("look_refused", Boolean),
    UniqueConstraint("event_id", name="links_event_id"),
    Index(
        "links_one_url",
        "lookup_id",
        "distribution_id",
        unique=True,
        postgresql_where=text("lookup_id IS NOT NULL"),
    ),
    Index(
        "links_one_per_distribution",
        "registrant_id",
        "distribution_id",
        unique=True,
        postgresql_where=text("slot_id IS NOT NULL"),
    ),
    Index(
        "links_one_per_contact",
        "contact_key",
        "distribution_id",
        unique=True,
        postgresql_where=text("contact_key IS NOT NULL"),
    ),
    Index("links_token", "token", unique=True, postgresql_where=text("token IS NOT NULL")),
    Index("links_given", "ref", "created_at", postgresql_include=["state", "reuses"]),
    Index("links_of_a_milestone", "milestone", "id"),
    Index(
        "links_of_an_hour",
        text("(milestone || '')"),
        text("(created_at AT TIME ZONE 'UTC')"),
    ),
    Index(
        "links_due",
        "state",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL AND clicked_at IS NULL"),
    ),
    Index(
        "links_due_clicked",
        "state",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL AND clicked_at IS NOT NULL"),
    ),
    Index(
        "links_without_place",
        "milestone",
        postgresql_where=text("state = 'waiting' AND rule = 'no-slot'"),
    ),
    Index("links_data_due", "data_due_at", postgresql_where=text("data_due_at IS NOT NULL")),
    Index(
        "links_of_a_distribution",
        "distribution_id",
        "id",
        postgresql_where=text("url IS NOT NULL"),
    ),
    Index(
        "links_next_look",
        text(
            "coalesce((look_due_at AT TIME ZONE 'UTC'),"
            " (issued_at AT TIME ZONE 'UTC') + '00:15:00'::interval)"
        ),
        postgresql_where=text("route = 'stepwise' AND url IS NOT NULL"),
    ),
)

responses = Table(
    "responses",
    metadata,
    Column("survey_id", Word, primary_key=True),
    Column("response_id", Word, primary_key=True),
    Column("heard_by", Text, nullable=False),
    Column("noted_at", Moment, nullable=False),
    Column("due_at", Moment),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("distribution_id", Text),
    Column("lookup_id", Word),
    Column("read_at", Moment),
    Column("started_at", Moment),
    Column("completed_at", Moment),
    Column("verdict", Text),
    Column("rule", Text),
    Column("link_id", Uuid, ForeignKey("links.id")),
    Column("is_unexplained", Boolean, nullable=False, server_default=text("false")),
    Index("responses_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("responses_unexplained", "noted_at", postgresql_where=text("is_unexplained")),
)

drift = Table(
    "drift",
    metadata,
    _row_id(),
    Column("kind", Text, nullable=False),
    Column("subject", Word, nullable=False),
    Column("milestone", Word, ForeignKey("milestones.key")),
    Column("link_id", Uuid, ForeignKey("links.id")),
    Column("survey_id", Text),
    Column("response_id", Text),
    Column("distribution_id", Text),
    Column("lookup_id", Text),
    Column("rule", Text),
    Column("first_seen_at", Moment, nullable=False),
    Column("last_seen_at", Moment, nullable=False),
    Column("settled_at", Moment),
    Column("settled_by", Text),
    UniqueConstraint("kind", "subject", name="drift_once"),
)

funnel = Table(
    "funnel",
    metadata,
    Column("milestone", Word, ForeignKey("milestones.key"), primary_key=True),
    Column("hour", Moment, primary_key=True),
    Column("distribution_id", BigInteger, primary_key=True, autoincrement=False),
    Column("requested", BigInteger, nullable=False),
    Column("reused", BigInteger, nullable=False),
    Column("suppressed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("issued", BigInteger, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("clicked", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("finished", BigInteger, nullable=False),
    Column("issued_until", Moment),
)

funnel_changes = Table(
    "funnel_changes",
    metadata,
    Column("milestone", Word, nullable=False),
    Column("hour", Moment, nullable=False),
    Index("funnel_changes_hour", "milestone", "hour"),
)

funnel_folds = Table(
    "funnel_folds",
    metadata,
    Column("milestone", Word, ForeignKey("milestones.key"), primary_key=True),
    Column("marked_until", Moment, nullable=False),
    Column("as_of", Moment),
)

reminders = Table(
    "reminders",
    metadata,
    Column("link_id", Uuid, primary_key=True),
    Column("milestone", Word, ForeignKey("milestones.key"), nullable=False),
    Column("due_at", Moment),
    Column("handed_at", Moment),
    Column("sent_at", Moment),
    Column("asked_by", Text),
    Index(
        "reminders_of_a_key",
        "milestone",
        "asked_by",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
    ),
    Index(
        "reminders_by_due_time",
        "milestone",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
    ),
)

memberships = Table(
    "memberships",
    metadata,
    Column("registrant_id", BigInteger, ForeignKey("registrants.id"), primary_key=True),
    Column("slot_id", BigInteger, ForeignKey("slots.id"), primary_key=True),
    Column("contact_key", Word, nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("lookup_id", Word, nullable=False),
    UniqueConstraint("slot_id", "lookup_id", name="memberships_lookup"),
)

listed_members = Table(
    "listed_members",
    metadata,
    Column("list_id", Text, primary_key=True),
    Column("contact_id", Text, primary_key=True),
    Column("lookup_id", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("ref", Word),
    Column("contact_key", Word),
    Index("listed_members_ref", "list_id", "ref", postgresql_where=text("ref IS NOT NULL")),
)

call_classes = Table(
    "call_classes",
    metadata,
    Column("call_class", Word, primary_key=True),
    Column("factor", Double, nullable=False, server_default=text("1")),
    Column("cut_at", Moment),
    Column("closed_until", Moment),
)

grants = Table(
    "grants",
    metadata,
    Column("call_class", Word, primary_key=True),
    Column("purpose", Word, primary_key=True),
    Column("slot", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("granted", Integer, nullable=False),
    Column("wanted", Integer, nullable=False),
)

capabilities = Table(
    "capabilities",
    metadata,
    Column("fact", Word, primary_key=True),
    Column("holds", Boolean, nullable=False),
    Column("figure", Integer),
    Column("evidence", Said, nullable=False),
    Column("probed_at", Moment, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", Word, primary_key=True),
    Column("accounted_until", Moment, nullable=False),
    Column("done_until", Moment, nullable=False),
    Column("error", Said),
    Column("error_at", Moment),
)

runs = Table(
    "runs",
    metadata,
    _row_id(),
    Column("job", Word, ForeignKey("jobs.name"), nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("coalesced", Integer, nullable=False, server_default=text("0")),
    Column("asked_by", Text),
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("lease_until", Moment),
    Column("paused_until", Moment),
    Column("position", JSONB(none_as_null=True)),
    Column("stage", Text),
    Column("done", BigInteger, nullable=False, server_default=text("0")),
    Column("total", BigInteger),
    Column("counts", JSON, nullable=False),
    Column("idle", Boolean, nullable=False, server_default=text("false")),
    Column("error", Said),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Index("runs_due", "job", "due_at", unique=True, postgresql_where=text("asked_by IS NULL")),
    Index(
        "runs_one_at_a_time",
        "job",
        unique=True,
        postgresql_where=text("started_at IS NOT NULL AND ended_at IS NULL"),
    ),
    Index(
        "runs_asked_for",
        "job",
        "options",
        unique=True,
        postgresql_where=text("started_at IS NULL"),
    ),
    Index("runs_idle", "job", unique=True, postgresql_where=text("idle")),
    Index("runs_history", "job", "id"),
)

findings = Table(
    "findings",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Said),
    Column("line", BigInteger),
    Column("ref", Said),
    Column("reason", Said, nullable=False),
)

intakes = Table(
    "intakes",
    metadata,
    _row_id(),
    Column("run_id", BigInteger, ForeignKey("runs.id", ondelete="SET NULL")),
    Column("rows", BigInteger),
    Column("bad", BigInteger),
    Column("read", JSONB),
    Column("touched_at", Moment, nullable=False),
)

staged = Table(
    "staged",
    metadata,
    Column("intake_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("ref", Word),
    Column("email", Text),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("phone", Text),
    Column("language", Text),
    Column("attributes", JSONB),
    Column("source", Text),
    Column("line", BigInteger),
    Column("reason", Text),
    Column("is_guess", Boolean, nullable=False),
    Index("staged_by_ref", "intake_id", "ref", "number", postgresql_where=text("ref IS NOT NULL")),
    Index("staged_bad", "intake_id", "number", postgresql_where=text("reason IS NOT NULL")),
)

watermarks = Table(
    "watermarks",
    metadata,
    Column("source", Word, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("milepost_uuid7()")),
    Column("url", Text, nullable=False),
    Column("types", ARRAY(Text), nullable=False),
    Column("description", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("disabled_because", Said),
    Column("secret", Text, nullable=False),
    Column("secret_before", Text),
    Column("secret_before_until", Moment),
    Column("created_at", Moment, nullable=False),
)

endpoint_lines = Table(
    "endpoint_lines",
    metadata,
    Column("endpoint_id", Uuid, ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    Column("message_id", Uuid),
    Column("lease_until", Moment),
    Column("delivered_at", Moment),
    Column("failed_at", Moment),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("milepost_uuid7()")),
    Column("endpoint_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("link_id", Uuid),
    Column("data", JSONB(none_as_null=True)),
    Column("state", Text, nullable=False, server_default=text("'waiting'")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("attempts_before", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Moment),
    Column("created_at", Moment, nullable=False),
    Index("messages_due_at", "endpoint_id", "due_at", postgresql_where=text("state = 'waiting'")),
    Index("messages_of_endpoint", "endpoint_id", "id"),
    Index("messages_parked", "endpoint_id", "id", postgresql_where=text("state = 'parked'")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", Uuid, ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("code", Integer),
    Column("error", Said),
    Column("said", Said),
)
