import asyncio, time, msgspec, pytest, psycopg
from tests.path.conftest import *
from milepost.model import *
from milepost.budget import Permit, Denied
from milepost.upstream.breaker import Outcome
pytestmark = pytest.mark.filterwarnings("default")
def ev(e, ref="ann", **m): return Event(event_id=e, ref=ref, milestone="landed", **({"data": {}, "occurred_at": None, "asked_by": "app"}|m))
def open_breaker(m, cc="list_contacts"):
    b = m.budget._breakers[cc]
    for _ in range(6):
        b.out().back(Outcome.UNANSWERED)
    assert b.is_open
    return b

async def test_probe_wasted_by_suppressed(milepost, landed):
    await landed(sample_percent=0.000001)
    b = open_breaker(milepost)
    t=time.time(); n=0; probes=0; last=b._probe_at
    while time.time()-t < 9:
        await milepost.issuing.issue(ev(f"s{n}")); n+=1
        if b._probe_at != last: probes+=1; last=b._probe_at
        await asyncio.sleep(0.02)
    print("suppressed events", n, "probes taken", probes, "open still:", b.is_open)

async def test_probe_wasted_by_drain(milepost, landed, execute, platform):
    await landed(unknown_registrant="defer", lanes=["direct","deferred"])
    for i in range(40): await milepost.issuing.issue(ev(f"u{i}", ref=f"nobody{i}"))
    a = open_breaker(milepost)
    r = await milepost.issuing.issue(ev("real"))
    print("real:", r.link.state, r.link.reason)
    await execute("update links set due_at = now() - interval '1 hour' where ref like 'nobody%%'" .replace("%%","%"))
    stop = asyncio.Event(); w = asyncio.create_task(milepost.worker.run(stop))
    await asyncio.sleep(20)
    print("breaker open after 20 s of a healthy platform:", a.is_open, await execute("select state, rule, count(*) from links group by 1,2"))
    stop.set(); await w

async def test_budget_lock_delays(milepost, landed, database_url):
    await landed(lanes=["direct","deferred"])
    await asyncio.sleep(1.2)
    async with await psycopg.AsyncConnection.connect(database_url) as c:
        await c.execute("select from call_classes where call_class='brand' for update")
        for i in range(4):
            t=time.time()
            r = await milepost.issuing.issue(ev(f"q{i}", ref="ben"), deadline_ms=300)
            print("deadline 300 ms answered after", round(time.time()-t,2), r.link.state, r.link.reason and r.link.reason.rule)

async def test_401_storm(milepost, landed, platform):
    await landed(lanes=["direct","deferred"])
    await milepost.store.registrants.put({f"p{i}": RegistrantDetails(email=f"p{i}@x.test") for i in range(100)})
    await platform.fault("status", status=401, times=1000)
    c0 = await platform.calls()
    rs = await asyncio.gather(*(milepost.issuing.issue(ev(f"t{i}", ref=f"p{i}")) for i in range(100)))
    print("calls with a dead token for 100 events:", await platform.calls()-c0, {(r.link.state, r.link.reason.rule) for r in rs})

async def test_details_flood(milepost, landed):
    await landed(lanes=["deferred"])
    async def one(i, d):
        t=time.time()
        try:
            r = await milepost.issuing.issue(ev(f"{d}{i}", ref=f"{d}n{i}", details=RegistrantDetails(email=f"{d}n{i}@x.test")))
            return (time.time()-t, r.link.state)
        except Exception as e: return (time.time()-t, type(e).__name__)
    for n in (200, 1000, 2000):
        t=time.time()
        out = await asyncio.gather(*(one(i, f"d{n}") for i in range(n)))
        from collections import Counter
        print(n, "new people:", round(time.time()-t,2), "s; slowest", round(max(o[0] for o in out),2), "late", sum(o[0]>1.5 for o in out), Counter(str(o[1]) for o in out))

async def test_held_stopped(milepost, landed, execute, platform):
    await landed(lanes=["direct","deferred"])
    await platform.fault("reset")
    r = await milepost.issuing.issue(ev("h1"))
    print("h1", r.link.state, r.link.url)
    await execute("update distributions set state='stopped', stopped_because='x'")
    await execute("update links set due_at=now()-interval '1s', lease_until=null")
    for _ in range(3):
        print(await milepost.sweep.run_once()); 
        print(await execute("select state, rule, due_at-now(), lost from links where event_id='h1'"))
        await execute("update links set due_at=now()-interval '1s'")
