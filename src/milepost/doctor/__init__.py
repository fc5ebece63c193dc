"""The doctor: says what is well with an installation, what to mend, and what its account accepts.

`looking.py` looks at settings, database and platform, and changes nothing. `probing.py` tries on
the account what nobody knows of it: `assumptions.py` has the words for what that means,
`belongings.py` makes and takes away, `watching.py` sees what comes of it, and `opening.py` opens
links as a browser would.
"""

from __future__ import annotations

from milepost.doctor.assumptions import Answer, Verdict
from milepost.doctor.belongings import Remains
from milepost.doctor.looking import Finding, examine
from milepost.doctor.opening import Answerer, FormFiller, Outcome
from milepost.doctor.probing import CannotProbe, Probing, Report, probe
from milepost.doctor.watching import Patience

__all__ = [
    "Answer",
    "Answerer",
    "CannotProbe",
    "Finding",
    "FormFiller",
    "Outcome",
    "Patience",
    "Probing",
    "Remains",
    "Report",
    "Verdict",
    "examine",
    "probe",
]
