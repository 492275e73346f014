"""Which function carries out which algorithm."""

from __future__ import annotations

from saddleflow.searches import dimer, gp_dimer, prior_gp_dimer, sella
from saddleflow.searches.base import Search

SEARCHES: dict[str, Search] = {
    "dimer": dimer.search,
    "gp-dimer": gp_dimer.search,
    "ot-gp-dimer": gp_dimer.search,
    "prior-gp-dimer": prior_gp_dimer.search,
    "sella": sella.search,
    "sella-xtb": sella.search,
}
"""From ``algorithm`` of the settings to the search; every member of settings.AnyMethod has one."""
