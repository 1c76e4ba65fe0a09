"""Every check of the audit by its name, and the limits that judge what it measures."""

from collections.abc import Mapping

from sigma.data.audit.check import Check, Limit
from sigma.data.audit.checks.cameras import CAMERAS
from sigma.data.audit.checks.episode_tables import ROWS
from sigma.data.audit.checks.films import FILMS
from sigma.data.audit.checks.joints import JOINTS
from sigma.data.audit.checks.metadata import DATASET, STRUCTURE
from sigma.data.audit.checks.units import UNITS
from sigma.parameters.audit import LimitOverride
from sigma.shared.errors import SigmaError

Limits = Mapping[str, Limit]

# In the order in which findings are listed.
CHECKS: dict[str, Check] = {
    check.name: check for group in (DATASET, UNITS, STRUCTURE, ROWS, JOINTS, CAMERAS, FILMS) for check in group
}
VIDEO_CHECKS = tuple(check.name for group in (CAMERAS, FILMS) for check in group)
PLACE = {name: place for place, name in enumerate(CHECKS)}


def choose_limits(overrides: Mapping[str, LimitOverride]) -> dict[str, Limit]:
    """The limits of every check: those written beside it, except where ``audit.limits`` overrides them.

    Raises :class:`SigmaError` for a name that no check has, and for a check that would fail below its warning.
    """
    limits = {name: check.limit for name, check in CHECKS.items()}
    for name, override in overrides.items():
        if name not in limits:
            raise SigmaError(f"params.yaml: audit.limits.{name}: no such check; legal: {', '.join(CHECKS)}")
        default = limits[name]
        limit = Limit(override.get("warn", default.warn), override.get("fail", default.fail))
        if limit.warn is not None and limit.fail is not None and limit.fail < limit.warn:
            raise SigmaError(
                f"params.yaml: audit.limits.{name}: fail ({limit.fail:g}) must not be below warn ({limit.warn:g}); "
                f"the check's own limits are warn {_yaml(default.warn)}, fail {_yaml(default.fail)}"
            )
        limits[name] = limit
    return limits


def _yaml(level: float | None) -> str:
    return "null" if level is None else f"{level:g}"
