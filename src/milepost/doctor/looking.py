"""Looks at an installation, line by line. Nothing is changed, here or at the platform.

Database and platform are looked at as far as each can be reached; what one of them says of the
other (the directory, the survey of a milestone) is compared where both answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from milepost import app, policy, scheduler, settings
from milepost.budget import Budget, Standing
from milepost.errors import ConfigurationError, InvalidMilestone, MilepostError
from milepost.jobs import intake, subscriptions
from milepost.jobs.provisioning import SEE_DOCTOR
from milepost.jobs.sources import Source, configured
from milepost.model import (
    Capabilities,
    Deployment,
    Fact,
    LinkState,
    Milestone,
    MilestoneDefinition,
    Purpose,
    Route,
    Stop,
)
from milepost.payload import REFERENCE_FIELD
from milepost.personal_link import NotAPersonalLink, parse
from milepost.settings import Settings
from milepost.store import LOCAL_URL, Store
from milepost.store.budget import BRAND
from milepost.store.census import CONNECTIONS_OF_A_PROCESS, People, Pool, Server, Stuck
from milepost.store.links import Backlog
from milepost.upstream import (
    Account,
    Directory,
    Forbidden,
    NotFound,
    SurveyDefinition,
    Unauthorized,
    Unreachable,
    Upstream,
)

OLDEST_POSTGRES: Final = 15

CLOCK_SECONDS: Final = 5.0
"""By which clocks may differ before it is said. The platform tells its time in whole seconds, and
what hangs on it (when a link expires, when something was bought) is counted in minutes."""

MOST_LISTS: Final = 10_000
"""Beyond so many mailing lists a directory stops listing them (documented)."""

SOURCE_SECONDS: Final = 15.0
"""How long the source of registrants may take to be there; a connection has ten of these."""

_MILESTONE: Final = "milestone "
_NO_POOL: Final = "none, and none is needed: each link is made at its event, step by step"

PUBLIC_SECONDS: Final = 5.0
"""How long the public address may take to answer."""


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str | None = None


_FORMER_SECRET: Final = Finding(
    what="secret",
    verdict="ok",
    found="references of links are signed by MILEPOST_SECRET, and those signed by "
    "MILEPOST_SECRET_BEFORE are still taken: keep that one until every link that it has signed has "
    "ended, which is after the longest link_days",
)


class _Ledger(Struct, frozen=True, kw_only=True):
    """What the database says of this deployment."""

    deployment: Deployment
    milestones: Sequence[Milestone]
    pools: Mapping[str, Pool]
    people: People
    capabilities: Capabilities
    backlog: Sequence[Backlog]
    stuck: Stuck
    standings: Sequence[Standing]
    jobs: Sequence[scheduler.Standing]


async def examine(
    environment: Mapping[str, str] = os.environ, *, probing: bool = False
) -> list[Finding]:
    """Look at settings, database and platform, as far as each can be reached.

    Args:
        environment: the settings.
        probing: a probe comes next: what was never tried needs no saying.
    """
    try:
        given = settings.load(environment)
        when = scheduler.timetable(given.schedule, given.time_zone)
        source = configured(given.registrants_source)
    except MilepostError as error:
        return [Finding(what="settings", verdict="fail", found=str(error))]
    where = "the simulator on this machine" if given.simulated else given.upstream_url
    findings = [Finding(what="settings", verdict="ok", found=f"the platform is {where}")]
    if given.secret_before is not None:
        findings.append(_FORMER_SECRET)
    if source is not None:
        findings.append(await _source(source))
    try:
        findings += await _whole(given, when, probing=probing)
    except MilepostError as error:
        findings += [_unusable_database(given, error), *await _platform(given)]
    return [*findings, await _public_address(given)]


async def _source(source: Source) -> Finding:
    what = "registrants source"
    try:
        await intake.check(source, SOURCE_SECONDS)
    except MilepostError as error:
        fix = "Every process that runs jobs must be able to read it; then run: milepost run sync"
        return Finding(what=what, verdict="fail", found=str(error), fix=fix)
    return Finding(what=what, verdict="ok", found="it is there")


# --- the database ---------------------------------------------------------------------------------


async def _whole(given: Settings, when: scheduler.Timetable, *, probing: bool) -> list[Finding]:
    """Look at everything, if there is a database."""
    with app.database(given) as url:
        async with (
            await Store.open(url) as store,
            Budget(
                store.budget, rate_per_minute=given.rate_per_minute, limits=given.limits
            ) as budget,
        ):
            server = await store.census.server()
            ledger = await _ledger(store, budget, when)
            platform = await _platform(given, ledger, budget)
            failed = frozenset(finding.what for finding in platform if finding.verdict == "fail")
            return [
                *_of_server(given, server),
                *_together(platform),
                *_of_ledger(ledger, failed, probing=probing),
            ]


async def _ledger(store: Store, budget: Budget, when: scheduler.Timetable) -> _Ledger:
    return _Ledger(
        deployment=await store.deployment.load(),
        milestones=await store.milestones.all(),
        pools=await store.census.pools(),
        people=await store.census.people(),
        capabilities=await store.capabilities.all(),
        backlog=await store.links.backlog(),
        stuck=await store.census.stuck(),
        standings=await budget.standings(),
        jobs=await scheduler.standings(store.runs, when),
    )


def _unusable_database(given: Settings, error: MilepostError) -> Finding:
    fix = None
    if not given.embedded and "milepost migrate" not in str(error):
        fix = "Start Postgres, or mend MILEPOST_DATABASE_URL: postgresql://user:password@host/db"
    return Finding(what="database", verdict="fail", found=str(error), fix=fix)


def _of_server(given: Settings, server: Server) -> list[Finding]:
    return [
        _version(given, server),
        _durability(server),
        *([] if given.embedded else [_connections(server)]),
    ]


def _version(given: Settings, server: Server) -> Finding:
    found = f"Postgres {server.version}, all migrations applied"
    if given.embedded:
        return Finding(
            what="database",
            verdict="warn",
            found=f"the embedded Postgres {server.version}, for demos, tests and small "
            "installations",
            fix="For anything larger, set MILEPOST_DATABASE_URL to a Postgres that is backed up.",
        )
    for is_wrong, what, fix in (
        (
            server.major < OLDEST_POSTGRES,
            f"Postgres {server.version}",
            f"Milepost needs Postgres {OLDEST_POSTGRES} or later: upgrade the server.",
        ),
        (
            server.encoding != "UTF8",
            f"{found}, with encoding {server.encoding}",
            "Names of people need UTF8: make a database with ENCODING 'UTF8'.",
        ),
        (
            server.read_only,
            f"{found}, which takes no writes",
            "Name the primary in MILEPOST_DATABASE_URL: a replica takes none.",
        ),
        (
            server.statement_timeout == "0",
            f"{found}; it ignores the timeouts that Milepost asks for",
            "Let the pooler between pass on the options of a connection, or connect without it.",
        ),
    ):
        if is_wrong:
            return Finding(what="database", verdict="fail", found=what, fix=fix)
    return Finding(what="database", verdict="ok", found=found)


def _durability(server: Server) -> Finding:
    off = [
        name
        for name, is_off in (
            ("fsync", not server.fsync),
            ("synchronous_commit", server.synchronous_commit == "off"),
            ("full_page_writes", not server.full_page_writes),
        )
        if is_off
    ]
    if off:
        return Finding(
            what="durability",
            verdict="fail",
            found=f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} off: a crash loses "
            "links that were handed out",
            fix=f"Set {', '.join(f'{name} = on' for name in off)} at the server.",
        )
    return Finding(
        what="durability",
        verdict="ok",
        found="what is committed outlives a crash",
    )


def _connections(server: Server) -> Finding:
    free = server.connections - server.in_use
    processes = max(free, 0) // CONNECTIONS_OF_A_PROCESS
    found = (
        f"{server.in_use} of {server.connections} are in use; a process holds up to "
        f"{CONNECTIONS_OF_A_PROCESS}, so there is room for {processes} more"
    )
    if not processes:
        return Finding(
            what="connections",
            verdict="warn",
            found=found,
            fix="Raise max_connections at the server, or run fewer processes.",
        )
    return Finding(what="connections", verdict="ok", found=found)


# --- the platform ---------------------------------------------------------------------------------


async def _platform(
    given: Settings, ledger: _Ledger | None = None, budget: Budget | None = None
) -> list[Finding]:
    """Look at the platform; against the database, and within the budget, where they are there."""
    findings: list[Finding] = []
    try:
        async with Upstream(given.upstream_url, app.credentials(given), gate=budget) as upstream:
            account = await upstream.whoami()
            findings.append(_whose(given, account))
            directories = await upstream.directories()
            findings.append(_data_centre(given, account, upstream.notices))
            findings += _clock(upstream.clock_ahead)
            findings += _directory(given, ledger, directories)
            for milestone in ledger.milestones if ledger else ():
                findings.append(await _survey(upstream, milestone))
            if ledger and ledger.milestones:
                findings.append(await _events(given, upstream, ledger.milestones))
    except MilepostError as error:
        findings.append(_unusable_platform(given, error))
    return findings


def _together(findings: Iterable[Finding]) -> list[Finding]:
    """What is the same of several milestones, which have one survey, as one finding."""
    alike: dict[tuple[str | None, ...], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.verdict, finding.found, finding.fix), []).append(finding)
    return [
        msgspec.structs.replace(
            some[0],
            what=", ".join(
                [some[0].what, *(one.what.removeprefix(_MILESTONE) for one in some[1:])]
            ),
        )
        for some in alike.values()
    ]


def _whose(given: Settings, account: Account) -> Finding:
    brand = f" of brand {account.brand_id}" if account.brand_id else ""
    means = "an OAuth client acts for" if given.upstream_client else "it is that of"
    return Finding(what="token", verdict="ok", found=f"{means} user {account.user_id}{brand}")


def _unusable_platform(given: Settings, error: MilepostError) -> Finding:
    fix = None
    match error:
        case Unauthorized() if given.upstream_client:
            fix = (
                "Set MILEPOST_UPSTREAM_CLIENT_ID and MILEPOST_UPSTREAM_CLIENT_SECRET to an OAuth "
                "client of the account that has the scopes in docs/operating.md."
            )
        case Unauthorized():
            fix = "Set MILEPOST_UPSTREAM_TOKEN to a token of the account that is not revoked."
        case Forbidden():
            fix = (
                "Give the token's user access to the API and to the directory; an OAuth client "
                "needs the scopes in docs/operating.md."
            )
        case Unreachable() if given.simulated:
            fix = (
                "Start it with its state, as `milepost serve` does: "
                "milepost simulate --limits none --state .milepost/simulator.state"
            )
        case Unreachable():
            fix = "See whether MILEPOST_UPSTREAM_URL names the account's data centre."
        case ConfigurationError():
            fix = "Set MILEPOST_UPSTREAM_URL to such as https://fra1.qualtrics.com/API/v3"
    found = str(error)
    if given.simulated and isinstance(error, Unreachable):
        found = f"nothing listens at {urlsplit(given.upstream_url).netloc}"
    return Finding(what="platform", verdict="fail", found=found, fix=fix)


def _data_centre(given: Settings, account: Account, notices: Sequence[str]) -> Finding:
    host = urlsplit(given.upstream_url).hostname or ""
    theirs = account.datacenter
    if notices or (theirs and _names_data_centre(host) and theirs not in host.split(".")):
        says = f"; the platform says: {notices[0]}" if notices else ""
        return Finding(
            what="data centre",
            verdict="warn",
            found=f"{host} is not the account's data centre{f' ({theirs})' if theirs else ''}, and "
            f"passes calls on{says}",
            fix=f"Put {theirs or 'it'} into MILEPOST_UPSTREAM_URL: calls are quicker then, and one "
            "machine less is in between.",
        )
    return Finding(what="data centre", verdict="ok", found=f"{theirs or host}, addressed directly")


def _names_data_centre(host: str) -> bool:
    """Whether a host may name one: those of this machine, and bare addresses, do not."""
    try:
        ip_address(host)
    except ValueError:
        return "." in host
    return False


def _clock(ahead: float | None) -> list[Finding]:
    """This machine's clock against the platform's, where that tells its time."""
    if ahead is None:
        return []
    if abs(ahead) <= CLOCK_SECONDS:
        found = f"as the platform's, within {CLOCK_SECONDS:.0f} s"
        return [Finding(what="clock", verdict="ok", found=found)]
    which = "behind" if ahead > 0 else "ahead of"
    return [
        Finding(
            what="clock",
            verdict="warn",
            found=f"this machine's clock is {abs(ahead):.0f} s {which} the platform's",
            fix="Set it by NTP: what is sent to the platform has the wrong time.",
        )
    ]


def _directory(
    given: Settings, ledger: _Ledger | None, directories: Sequence[Directory]
) -> list[Finding]:
    known = {directory.directory_id: directory for directory in directories}
    usual = next((d for d in directories if d.is_default), None)
    directory = known.get(given.directory_id) if given.directory_id else usual
    ours = ledger.deployment if ledger else None
    if ours and ours.directory_id not in {None, *known}:
        return [
            Finding(
                what="directory",
                verdict="fail",
                found=f"this database belongs to directory {ours.directory_id}, which the account "
                f"does not have; it has {', '.join(known) or 'none'}",
                fix="Mend MILEPOST_UPSTREAM_URL or the token, or use another database.",
            )
        ]
    if directory is None:
        return [
            Finding(
                what="directory",
                verdict="fail",
                found=f"the account has no directory {given.directory_id or 'by default'}",
                fix=f"Set MILEPOST_DIRECTORY_ID to one of: {', '.join(known) or '(it has none)'}.",
            )
        ]
    if ours and ours.directory_id not in {None, directory.directory_id}:
        return [
            Finding(
                what="directory",
                verdict="fail",
                found=f"this database belongs to directory {ours.directory_id}, and not to "
                f"{directory.directory_id}",
                fix=f"Set MILEPOST_DIRECTORY_ID={ours.directory_id}, or give each directory a "
                "database of its own.",
            )
        ]
    findings = [_criteria(directory, ours)]
    if ledger and ledger.people.registrants and ledger.deployment.dedup_criteria is not None:
        findings.append(_registrants(directory, ledger.people))
    return findings


def _criteria(directory: Directory, ours: Deployment | None) -> Finding:
    if not directory.dedup_criteria:
        return Finding(
            what="directory",
            verdict="warn",
            found=f"{directory.directory_id} does not merge contacts",
            fix="Set criteria for merging at the platform, or every link makes another contact.",
        )
    criteria = ", ".join(sorted(directory.dedup_criteria))
    found = f"{directory.directory_id} merges contacts that have the same {criteria}"
    if ours and ours.dedup_criteria not in {None, directory.dedup_criteria}:
        earlier = ", ".join(sorted(ours.dedup_criteria or ())) or "(none)"
        return Finding(
            what="directory",
            verdict="warn",
            found=f"{found}; registrants are still told apart by {earlier}",
            fix="Run: milepost run sync",
        )
    return Finding(what="directory", verdict="ok", found=found)


def _registrants(directory: Directory, people: People) -> Finding:
    lacking = [
        f"{people.lacking[name]:,} have no {name}"
        for name in sorted(directory.dedup_criteria & people.lacking.keys())
        if people.lacking[name]
    ]
    known = f"{people.registrants:,} known"
    if people.incomplete or people.shared:
        reasons = [
            *lacking,
            *([f"{people.shared:,} share another's contact"] if people.shared else []),
        ]
        return Finding(
            what="registrants",
            verdict="warn",
            found=f"{known}; {people.incomplete + people.shared:,} get no link, for the directory "
            f"cannot tell them apart: {', '.join(reasons) or 'a value is missing'}",
            fix="Complete them, or have the directory merge by something that everybody has of "
            "their own.",
        )
    if people.without_contact:
        return Finding(
            what="registrants",
            verdict="warn",
            found=f"{known}, {people.without_contact:,} of them without a contact yet",
            fix="Run: milepost run sync",
        )
    return Finding(what="registrants", verdict="ok", found=f"{known}, each with a contact")


async def _survey(upstream: Upstream, milestone: Milestone) -> Finding:
    what = f"{_MILESTONE}{milestone.key}"
    survey_id = milestone.definition.survey_id
    try:
        survey = await upstream.survey_definition(survey_id)
    except (NotFound, Forbidden):
        return Finding(
            what=what,
            verdict="fail",
            found=f"the token's user sees no survey {survey_id}",
            fix="Share the survey with that user, or give the milestone another survey_id.",
        )
    return _of_survey(what, milestone, survey)


async def _events(given: Settings, upstream: Upstream, milestones: Sequence[Milestone]) -> Finding:
    """Whether the platform tells of responses, which for plain links nothing else does."""
    what = "event calls"
    is_needed = any(m.definition.route is Route.ANONYMOUS for m in milestones)
    verdict: Literal["ok", "warn"] = "warn" if is_needed else "ok"
    later = "of plain links nobody hears" if is_needed else "job reconcile tells what became"
    if given.events_key is None:
        return Finding(
            what=what,
            verdict=verdict,
            found=f"none are taken, MILEPOST_EVENTS_KEY is missing: {later}",
            fix="Set it, then run: milepost events subscribe",
        )
    if given.public_url is None and not given.simulated:
        return Finding(
            what=what, verdict="warn", found="they cannot come without MILEPOST_PUBLIC_URL"
        )
    url = subscriptions.address(given.public_url or LOCAL_URL)
    surveys = {m.definition.survey_id for m in milestones}
    try:
        lacking = await subscriptions.lacking(upstream, surveys, url)
    except Forbidden:
        return Finding(
            what=what,
            verdict="ok",
            found="they are taken; whether they are subscribed to, this token's user may not see",
        )
    if lacking:
        return Finding(
            what=what,
            verdict="warn",
            found=f"no subscription tells {url} of responses to {', '.join(lacking)}: {later}",
            fix="Run, with a brand administrator's token: milepost events subscribe",
        )
    return Finding(what=what, verdict="ok", found=f"responses are told to {url}")


def _of_survey(what: str, milestone: Milestone, survey: SurveyDefinition) -> Finding:
    survey_id = milestone.definition.survey_id
    if not survey.active:
        return Finding(
            what=what,
            verdict="fail",
            found=f"survey {survey_id} is not active",
            fix="Activate it: no distribution can be made for it, and the links that were given, "
            "and are given now, lead to a closed page.",
        )
    is_plain = milestone.definition.route is Route.ANONYMOUS
    if is_plain and survey.invitation_only:
        return Finding(
            what=what,
            verdict="fail",
            found=f"survey {survey_id} is answered by invitation only, so that its plain link, "
            'which route "anonymous" gives out, leads to a closed page',
            fix="Let it be answered without an invitation, in the survey's security options, or "
            'give the milestone route "list".',
        )
    # Of a plain link the survey sees the reference alone.
    fields = () if is_plain else milestone.definition.fields
    wanted = {field.name for field in fields} | {REFERENCE_FIELD}
    if is_plain and REFERENCE_FIELD not in survey.fields:
        return Finding(
            what=what,
            verdict="fail",
            found=f"the flow of survey {survey_id} does not declare {REFERENCE_FIELD}: no response "
            'by a link of route "anonymous" can be matched',
            fix=f"Add {REFERENCE_FIELD} as embedded data at the start of the survey flow.",
        )
    if missing := sorted(wanted - survey.fields):
        it = "it" if len(missing) == 1 else "them"
        return Finding(
            what=what,
            verdict="warn",
            found=f"the flow of survey {survey_id} does not declare {', '.join(missing)}",
            fix=f"Add {it} as embedded data at the start of the survey flow, or responses will "
            f"not hold {it}.",
        )
    found = f"survey {survey_id} is active, its flow declares {', '.join(sorted(wanted))}"
    if survey.invitation_only is False and not is_plain:
        return Finding(
            what=what,
            verdict="warn",
            found=f"{found}; it can be answered without a personal link",
            fix='Let it be answered "by invitation only", in the survey\'s security options.',
        )
    only = "; it is answered by invitation only" if survey.invitation_only else ""
    return Finding(what=what, verdict="ok", found=found + only)


# --- what the database says -----------------------------------------------------------------------


def _of_ledger(ledger: _Ledger, failed: AbstractSet[str], *, probing: bool) -> list[Finding]:
    """Look at what is written down; `failed` has what the platform was seen to lack."""
    return [
        *(_pool(milestone, ledger, failed) for milestone in ledger.milestones),
        *_home_list(ledger),
        *_lists(ledger.milestones),
        *([] if probing else _untried(ledger)),
        *_account_allows(ledger.capabilities),
        *_matching(ledger),
        *(finding for each in ledger.milestones for finding in _cautions(each, ledger)),
        _room(ledger.standings),
        _unsettled(ledger),
        *_jobs(ledger.jobs),
    ]


def _pool(milestone: Milestone, ledger: _Ledger, failed: AbstractSet[str]) -> Finding:
    what = f"pool {milestone.key}"
    definition = milestone.definition
    pool = ledger.pools.get(milestone.key)
    least, _ = policy.pool_size(definition)
    ready = pool.ready if pool else 0
    found = f"{ready} of {_wanted(definition)}" if least else _NO_POOL
    if milestone.stop is not None:
        return Finding(
            what=what,
            verdict="fail",
            found=f"it gives no links: {milestone.stop.because}",
            fix=_mend(milestone.key, milestone.stop),
        )
    if milestone.state == "paused":
        return Finding(what=what, verdict="ok", found=f"{found}; it is paused")
    # A batch that is not trusted is not tried again: another one is.
    if pool and pool.stopped and not (definition.route is Route.TRANSACTION and ready):
        return Finding(
            what=what,
            verdict="fail",
            found=f"{found}; {pool.stopped} stopped: {pool.stopped_because}",
            fix="The platform's links are not what they were: see GET "
            f"/v1/milestones/{milestone.key}/pool, and do not resume before it is understood.",
        )
    if ready < least:
        error = pool.last_error.removesuffix(SEE_DOCTOR) if pool and pool.last_error else None
        why = f"; the last one failed: {error}" if error else ""
        fix = "Run: milepost run replenish"
        if pool and pool.unlisted:
            why += f"; {pool.unlisted} made, whose link the platform does not list yet"
        if f"{_MILESTONE}{milestone.key}" in failed:
            fix = f"Mend milestone {milestone.key} first."
        elif pool and pool.unlisted and not pool.last_error:
            fix = (
                "Wait: the platform lists links late, and `milepost serve` or `milepost work` "
                "looks again by itself."
            )
        return Finding(what=what, verdict="warn", found=f"{found}{why}", fix=fix)
    return Finding(what=what, verdict="ok", found=found)


def _mend(key: str, stop: Stop) -> str:
    """What ends the stop of a milestone."""
    see = f"See GET /v1/milestones/{key} for the two links"
    if stop.resumed_at is not None:
        return "Wait: it was resumed, and goes on when the platform lists the next canary."
    try:
        parse(stop.found or "")
    except NotAPersonalLink:
        return (
            f"{see}, and report the sentence: it takes a version of Milepost that knows this form. "
            "It goes on by itself should the platform go back."
        )
    return f"{see}, then POST …/resume to build links as the platform does now."


def _wanted(definition: MilestoneDefinition) -> str:
    """What a milestone's pool is to have, in words."""
    match definition.route:
        case Route.ANONYMOUS:
            return "1 list with a probe and a distribution, which tell the host of the survey"
        case Route.TRANSACTION:
            return "1 batch with a probe and a distribution; a full one is followed by another"
    wanted = (
        f"{definition.slots} lists with a probe and a distribution each, up to "
        f"{definition.max_slots} where people hold as many links at once"
    )
    if definition.membership == "ahead":
        wanted += "; every registrant joins the first of them"
    return wanted


def _home_list(ledger: _Ledger) -> list[Finding]:
    """Whether what transactions need is there, if a milestone makes some at the event."""
    stepwise = [one.key for one in ledger.milestones if one.definition.route is Route.STEPWISE]
    if not stepwise or ledger.deployment.home_list_id is not None:
        return []
    return [
        Finding(
            what="home list",
            verdict="warn",
            found=f"there is none yet, and the links of {', '.join(stepwise)} wait for it",
            fix="Run: milepost run sync",
        )
    ]


def _lists(milestones: Sequence[Milestone]) -> list[Finding]:
    # One more for each survey's canary, and the home list.
    surveys = {milestone.definition.survey_id for milestone in milestones}
    pools = (_lists_of(milestone.definition) for milestone in milestones)
    most = sum(pools) + len(surveys) + 1
    if most <= MOST_LISTS:
        return []
    return [
        Finding(
            what="mailing lists",
            verdict="warn",
            found=f"the milestones may come to need {most:,}; a directory lists {MOST_LISTS:,}",
            fix="Lower max_slots, or divide the milestones among directories.",
        )
    ]


def _lists_of(definition: MilestoneDefinition) -> int:
    """How many mailing lists a milestone may come to need."""
    match definition.route:
        case Route.LIST:
            return definition.max_slots
        case Route.ANONYMOUS:
            return 1
        case _:
            return 0


def _untried(ledger: _Ledger) -> list[Finding]:
    untried = [fact for fact in ledger.capabilities.unprobed if fact is not Fact.THROTTLE]
    if not untried:
        return []
    is_used = any(milestone.state == "active" for milestone in ledger.milestones)
    return [
        Finding(
            what="account, untried",
            verdict="warn",
            found=f"taken for granted and never tried: {', '.join(untried)}",
            fix=policy.probing(untried, survey="" if is_used else " --survey SV_…"),
        )
    ]


def _account_allows(capabilities: Capabilities) -> list[Finding]:
    known = capabilities.known.values()
    if not known:
        return []
    oldest = min(capability.probed_at for capability in known)
    denied = [capability.fact for capability in known if not capability.holds]
    when = f"as of {oldest.astimezone(UTC):%Y-%m-%d}"
    if not denied:
        found = f"all that was tried was proved, {when}"
        return [Finding(what="account", verdict="ok", found=found)]
    return [
        Finding(
            what="account",
            verdict="warn",
            found=f"proved not to be so, {when}: {', '.join(denied)}",
            fix="Milepost does without. docs/doctor.md says what that costs; probe again when the "
            "account has changed.",
        )
    ]


def _matching(ledger: _Ledger) -> list[Finding]:
    """Whether responses of links whose data are a list's can be matched."""
    facts = Fact.PRIVATE_DATA, Fact.HISTORY_LINKS
    routes = {milestone.definition.route for milestone in ledger.milestones} or {Route.LIST}
    if Route.LIST not in routes or any(map(ledger.capabilities.holds, facts)):
        return []
    return [
        Finding(
            what="responses",
            verdict="warn",
            found="neither private_data nor history_links holds: responses can be matched by "
            "nothing but the distribution's counts",
            fix="Ask the platform's support for either, or do without knowing whose a response is.",
        )
    ]


def _cautions(milestone: Milestone, ledger: _Ledger) -> list[Finding]:
    """What of the account concerns this milestone, but that it was never tried: that is said."""
    what = f"milestone {milestone.key}, route {milestone.definition.route}"
    # What it is exempt from by having been there before; but each distribution asks for its days.
    earlier = msgspec.structs.replace(milestone.definition, link_days=0)
    try:
        policy.check_account(milestone.definition, ledger.capabilities, earlier)
    except InvalidMilestone as error:
        return [Finding(what=what, verdict="fail", found=error.detail, fix=error.fix)]
    return [
        Finding(what=what, verdict="warn", found=caution.detail, fix=caution.fix)
        for caution in policy.cautions(milestone.definition, ledger.capabilities)
        if caution.code != "not-probed"
    ]


def _room(standings: Sequence[Standing]) -> Finding:
    now = datetime.now(UTC)
    brand = next(standing for standing in standings if standing.call_class == BRAND)
    used = sum(room.granted for room in brand.rooms)
    most = brand.rooms[0].most
    found = (
        f"{used:,} of {most:,} calls of the last minute were made (a hundredth of what is allowed "
        "is left free)"
    )
    cut = [
        standing.call_class
        for standing in standings
        if standing.rooms[0].factor < 1 or (standing.rooms[0].closed_until or now) > now
    ]
    if cut:
        return Finding(
            what="budget",
            verdict="warn",
            found=f"{found}; after answers 429 there are fewer for now of: {', '.join(cut)}",
            fix="If it stays so, others use the brand's calls: lower MILEPOST_RATE_PER_MINUTE or "
            "MILEPOST_LIMITS to Milepost's part.",
        )
    if not brand.room(Purpose.PROVISIONING).room:
        return Finding(
            what="budget",
            verdict="warn",
            found=f"{found}: none are left for work ahead of events",
            fix="Wait a minute, or raise MILEPOST_RATE_PER_MINUTE if the brand allows more.",
        )
    return Finding(what="budget", verdict="ok", found=found)


def _unsettled(ledger: _Ledger) -> Finding:
    stuck = ledger.stuck
    if stuck.links and stuck.since is not None:
        return Finding(
            what="backlog",
            verdict="warn",
            found=f"{stuck.links:,} links were to be finished since "
            f"{stuck.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC, and nobody does",
            fix="See whether `milepost serve` or `milepost work` runs, and what it logs.",
        )
    waiting = [entry for entry in ledger.backlog if entry.state is LinkState.WAITING]
    if not waiting:
        return Finding(what="backlog", verdict="ok", found="no link waits")
    named = ", ".join(f"{entry.links:,} of {entry.milestone}" for entry in waiting)
    return Finding(what="backlog", verdict="ok", found=f"links that wait for their calls: {named}")


def _jobs(standings: Sequence[scheduler.Standing]) -> list[Finding]:
    wrong = [standing for standing in standings if not standing.is_well]
    if not standings:
        found = "none has begun; `milepost serve` and `milepost work` run them"
        return [Finding(what="jobs", verdict="ok", found=found)]
    if not wrong:
        names = ", ".join(standing.name for standing in standings)
        return [Finding(what="jobs", verdict="ok", found=f"none is late: {names}")]
    return [_wrong(standing) for standing in wrong]


def _wrong(standing: scheduler.Standing) -> Finding:
    run, minutes = standing.run, int(standing.late.total_seconds() // 60)
    hours, minutes = divmod(minutes, 60)
    found = f"late by {hours} h {minutes} min ({standing.calendar})"
    if standing.is_fresh:
        found = "not late"
    fix = "See whether `milepost serve` or `milepost work` runs, and what it logs."
    if standing.error:
        found += f"; it met: {standing.error}"
    if run is not None and run.error:
        found += f"; its last run, {run.id}, is {run.state}: {run.error}"
        fix = f"Mend that, and run: milepost run {standing.name}"
    return Finding(what=f"job {standing.name}", verdict="fail", found=found, fix=fix)


# --- the public address ---------------------------------------------------------------------------


async def _public_address(given: Settings) -> Finding:
    what = "public address"
    if given.public_url is None:
        if given.simulated:
            return Finding(what=what, verdict="ok", found="the one that `milepost serve` has here")
        return Finding(
            what=what,
            verdict="warn",
            found="MILEPOST_PUBLIC_URL is missing: short links lead to this machine",
            fix="Set it to where customers reach Milepost, such as https://links.example.com",
        )
    host = urlsplit(given.public_url).hostname or ""
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:
        return Finding(
            what=what,
            verdict="warn",
            found=f"the name {host} leads to no address from here",
            fix="Give it one in the DNS, or mend MILEPOST_PUBLIC_URL.",
        )
    address = f"{given.public_url}/health/live"
    try:
        # Like a customer's browser it has no token, and it follows nobody elsewhere.
        async with httpx.AsyncClient(timeout=PUBLIC_SECONDS) as web:
            answer = await web.get(address)
    except httpx.HTTPError as error:
        return Finding(
            what=what,
            verdict="warn",
            found=f"{address} cannot be reached from here ({type(error).__name__})",
            fix="Start `milepost serve`, and lead that address to it; whether customers come to it "
            "cannot be seen from a machine that does not.",
        )
    if answer.status_code != httpx.codes.OK or '"ok"' not in answer.text:
        return Finding(
            what=what,
            verdict="fail",
            found=f"{address} is answered with {answer.status_code}, and not by Milepost",
            fix="Lead MILEPOST_PUBLIC_URL, with its path if it has one, to `milepost serve`.",
        )
    return Finding(what=what, verdict="ok", found=f"{given.public_url} leads to Milepost")
