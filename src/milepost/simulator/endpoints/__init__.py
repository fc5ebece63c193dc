"""Everything that the API answers; all else is 404."""

from __future__ import annotations

from milepost.simulator.endpoints import directory, distributions, surveys

ENDPOINTS = (*directory.ENDPOINTS, *distributions.ENDPOINTS, *surveys.ENDPOINTS)
