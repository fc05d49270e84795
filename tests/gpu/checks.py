"""All checks by theme, in the order of a run: what is right first, then how fast it is."""

from tests.gpu import launching, numerics, probes, profile, timing, trouble
from tests.gpu.case import Check

THEMES: dict[str, tuple[Check, ...]] = {
    "numbers": numerics.CHECKS,
    "launching": launching.CHECKS,
    "probes": probes.CHECKS,
    "trouble": trouble.CHECKS,
    "timing": timing.CHECKS,
    "profile": profile.CHECKS,
}


def all_checks() -> dict[str, Check]:
    """Every check by name."""
    return {check.name: check for checks in THEMES.values() for check in checks}
