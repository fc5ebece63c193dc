"""Milepost: personal survey links at the moment a customer passes a milestone.

The map, from the top; imports run downwards only. The path of an event is `api/links.py` →
`issuing.py` → `store/links.py` → `routes/mailing_list.py` → `personal_link.py`.

- `cli`: the commands
- `demo`, `doctor`: what two of them do
- `replay`: sends events from a file, as an app's backend would
- `local`: starts the simulator beside a process
- `app`: the composition root: settings go in, a running Milepost comes out
- `admin/`: the web page, for those who run milestones and those who count responses
- `api/`: REST: parse, call one verb, shape the answer; `api/short_links.py` is what customers see
- `worker`: runs the jobs, beside the API or alone
- `scheduler`: the cadence table: which job is due when, and who runs it
- `jobs/`: periodic work, one file for each job, each with `run_once()`
- `issuing`: the path: event → claim → call → link → settle
- `matching`: whether a response is of the link that it names
- `webhooks`: sign and deliver one message
- `routes/`: what the routes do differently
- `budget`: how many calls may go to the platform now, and for whom
- `store/`: Postgres: one verb is one transaction; `store/links.py` holds the ledger's essay
- `upstream/`: the client of the survey platform
- `embedded`: Postgres from a wheel, for a machine that has none
- `personal_link`: pure: a URL becomes its parts, a template and a lookup id become a URL
- `calendars`: pure: when something is due, by intervals or crontab lines
- `policy`: pure: whose contact it is, who is in the sample, how many slots, when to rotate
- `payload`: pure: an event's data, checked, fingerprinted, sealed
- `model`: the words as values
- `settings`, `errors`: what an installation is told; what can go wrong
- `failpoints`: where a test can make a process die
- `simulator/`: a faithful stand-in for the survey platform, which knows only the wire
"""
