"""Places where a process can be made to die, to see what is left of it.

For tests of crashes; in any other run `reach` is a function without a body. An event passes:

=================  ===============================================================================
`arrived`          the request is read; nothing is written down
`claimed`          the claim is committed; the call has not gone out
`made`             upstream has accepted the call; the link is not settled
`settled`          the settlement is committed; the caller has no answer
`answered-late`    as `settled`, where the caller was answered before the call came back
=================  ===============================================================================

A link of route `transaction` passes besides, between `claimed` and `made`:

=================  ===============================================================================
`joined`           upstream has put its registrant into the home list, which is not written down;
                   instead of the event's id it has the registrant's ref
`created`          upstream has made the transaction; its id is not written down
`noted`            its id is written down; it is in no batch
=================  ===============================================================================

One of route `stepwise` passes one after each of its calls:

=================  ===============================================================================
`stepped`          upstream has accepted a call, and the id of what it made is not written down;
                   instead of the event's id it has the words `transaction of EVENT_ID`
=================  ===============================================================================

The data of a link that went out before its call pass `claimed` and `made` in the same sense.

A distribution in the making passes one, three times:

=================  ===============================================================================
`provisioned`      upstream has made something of it, and its id is not written down; instead of an
                   event's id it has the words `list of slot 1 of landed`, `probe of …` or
                   `distribution of the canary of SV_…`
=================  ===============================================================================

What happens where is said by `MILEPOST_FAILPOINTS`, read when this module is imported: triggers,
separated by commas.

=================  ===============================================================================
`settled=kill@9`   SIGKILL at the 9th passage of `settled` in this process
`made=kill#late`   SIGKILL at each passage of `made` by an event with `late` in its event_id
                   (or by something with `late` in its words)
`made=stop@3`      SIGSTOP: the process freezes, and goes on when somebody sends SIGCONT
=================  ===============================================================================

`kill` ends the whole process group, as the loss of a machine would, so what is to die needs a group
of its own (`start_new_session`). `stop` freezes the one process.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, get_args

from msgspec import Struct

from milepost.errors import ConfigurationError

Failpoint = Literal["arrived", "claimed", "made", "settled", "answered-late"]
"""Those on the path of an event."""
StepPoint = Literal["joined", "created", "noted", "stepped"]
"""Those on the path of an event that takes several calls."""
MakingPoint = Literal["provisioned"]
"""That in the making of a distribution."""
_NAMES: Final = get_args(Failpoint) + get_args(StepPoint) + get_args(MakingPoint)

VARIABLE: Final = "MILEPOST_FAILPOINTS"
_EXAMPLE: Final = "settled=kill@250,claimed=kill#poison"
_TRIGGER: Final = re.compile(r"([^=]*)=(kill|stop)(?:@([1-9][0-9]{0,8})|#([^,]+))")


class _Trigger(Struct, frozen=True):
    """What happens at a failpoint: at the n-th passage, or to events whose id holds a text.

    One of the two is given.
    """

    failpoint: str
    act: Callable[[], None]
    passage: int | None
    text: str | None


def _kill() -> None:
    os.killpg(0, signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _parse(given: str) -> tuple[_Trigger, ...]:
    """Read triggers; raises `ConfigurationError` for a failpoint or a form that there is not."""
    triggers = []
    for part in filter(None, given.split(",")):
        match = _TRIGGER.fullmatch(part)
        if match is None:
            raise ConfigurationError(
                f"{VARIABLE}: {part!r} is none of name=kill@N, name=stop@N, name=kill#TEXT and "
                f"name=stop#TEXT, for example: {_EXAMPLE}"
            )
        name, act, passage, text = match.groups()
        if name not in _NAMES:
            raise ConfigurationError(
                f"{VARIABLE}: there is no failpoint {name!r}, only {', '.join(_NAMES)}, "
                f"for example: {_EXAMPLE}"
            )
        triggers.append(
            _Trigger(
                failpoint=name,
                act=_kill if act == "kill" else _stop,
                passage=int(passage) if passage else None,
                text=text,
            )
        )
    return tuple(triggers)


_triggers: Final = _parse(os.environ.get(VARIABLE, ""))
_passages: Final = Counter[str]()


def _watch(name: Failpoint | StepPoint | MakingPoint, passer: str = "") -> None:
    _passages[name] += 1
    for trigger in _triggers:
        if trigger.failpoint != name:
            continue
        if trigger.passage == _passages[name] or (trigger.text and trigger.text in passer):
            trigger.act()


def _pass(name: Failpoint | StepPoint | MakingPoint, passer: str = "") -> None:
    """Nothing stands in the way."""


reach: Final = _watch if _triggers else _pass
"""Pass a failpoint with the event of this id, or with words, unless a trigger stands there."""
