"""Everything that the API answers; all else is 404."""

from __future__ import annotations

from milepost.simulator.endpoints import (
    directory,
    distributions,
    imports,
    opted_out,
    subscriptions,
    surveys,
    transactions,
)

ENDPOINTS = (
    *directory.ENDPOINTS,
    *opted_out.ENDPOINTS,
    *imports.ENDPOINTS,
    *transactions.ENDPOINTS,
    *distributions.ENDPOINTS,
    *surveys.ENDPOINTS,
    *subscriptions.ENDPOINTS,
)
