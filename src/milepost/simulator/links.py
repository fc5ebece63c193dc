"""Personal links: what they are made of, in every shape in which they were seen.

A link's parts are a distribution, a survey and a recipient, and all of it stands in the open:
nothing is signed. Whatever shape is written now, links of every shape are read, since links that
were given away keep working.
"""

from __future__ import annotations

import re

from msgspec import Struct

from milepost.simulator.facts import LinkFormat

FORM = "/jfe/form"
OLD_FORM = "/SE"
UNSEEN_FORM = "/survey"

_Q_DL = re.compile(r"(?:EMD_)?([A-Za-z0-9]{15})_([A-Za-z0-9]{15})_(C(?:GC|TR)_[A-Za-z0-9]{15})")
_UNSEEN = re.compile(r"([A-Za-z0-9]{15})\.(C(?:GC|TR)_[A-Za-z0-9]{15})")


class Parts(Struct, frozen=True):
    """What a personal link names, each with its prefix. A recipient is `CGC_…` or `CTR_…`."""

    distribution_id: str
    survey_id: str
    recipient_id: str


def written(origin: str, parts: Parts, form: LinkFormat) -> str:
    """The link of a recipient; that of a transaction has one shape (observed in one account)."""
    survey = parts.survey_id
    distribution = parts.distribution_id
    bare = distribution.removeprefix("EMD_")
    if form == "unknown":
        return f"{origin}{UNSEEN_FORM}/{survey}/{bare}.{parts.recipient_id}"
    tail = f"_{survey.removeprefix('SV_')}_{parts.recipient_id}"
    page = f"{origin}{FORM}/{survey}"
    if parts.recipient_id.startswith("CTR_") or form == "2023-no-emd":
        return f"{page}?Q_CHL=gl&Q_DL={bare}{tail}&_g_=g"
    if form == "2019":
        return f"{origin}{OLD_FORM}?Q_DL={bare}{tail}&Q_CHL=gl"
    if form == "2020":
        return f"{page}?Q_DL={distribution}{tail}&Q_CHL=gl"
    if form == "2020-channel-first":
        return f"{page}?Q_CHL=gl&Q_DL={bare}{tail}"
    if form == "double-slash":
        page = f"{origin}/{FORM}/{survey}"
    return f"{page}?Q_CHL=gl&Q_DL={distribution}{tail}&_g_=g"


def read_q_dl(text: str) -> Parts | None:
    """The parts in a link's `Q_DL`, or `None` if it is not one."""
    found = _Q_DL.fullmatch(text)
    return found and Parts(f"EMD_{found[1]}", f"SV_{found[2]}", found[3])


def read_unseen(survey_id: str, text: str) -> Parts | None:
    """The parts in the path of a link of the unseen shape, or `None` if it is not one."""
    found = _UNSEEN.fullmatch(text)
    return found and Parts(f"EMD_{found[1]}", survey_id, found[2])
