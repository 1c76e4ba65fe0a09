"""Checks of the dataset's joints as a whole: their units, and joints that stand still. No episode is to blame for
these, so their details name the key of params.yaml that says what is meant. Episodes that fail another check do not
count.
"""

from collections.abc import Iterator
from math import ceil, floor, log10

import numpy as np

from sigma.data.audit.check import CheckGroup
from sigma.data.audit.measures import Extremes, Measure, UnitsCheck

# Beyond two turns no joint is given in degrees; in radians two turns are 12.6, and most joints have less than one.
MOST_DEGREES, MOST_RADIANS = 720.0, 7.0
TREMBLES = 0.4  # white noise has 2; a gripper that opens and closes twice in 50 frames has 0.3, in whatever units

UNITS = CheckGroup[UnitsCheck]()


def outward(value: float) -> float:
    """``value`` rounded away from zero to two digits, so that a range of such ends holds what it was made from."""
    if not value:
        return 0.0
    unit = 10.0 ** (floor(log10(abs(value))) - 1)
    return float(f"{np.copysign(ceil(abs(value) / unit - 1e-9) * unit, value):.6g}")


def _joint_range(lower: float, upper: float) -> str:
    return f"set params.yaml: audit.joint_range: {{lower: {float(lower)}, upper: {float(upper)}}}"


def _beyond(extremes: Extremes) -> np.ndarray:
    """How far each joint leaves ``audit.joint_range`` in each episode, as a share of that range, float [E, D]."""
    outside = np.maximum(extremes.lower - extremes.low, extremes.high - extremes.upper)
    return np.maximum(outside, 0) / (extremes.upper - extremes.lower)


def shortfall(low: float, high: float, lower: float, upper: float) -> float:
    """Factor by which joints from ``low`` to ``high`` fall short of that end of ``audit.joint_range``, ``lower`` to
    ``upper``, which they miss by more."""
    return max(
        (float(end / max(reach, 1e-9)) for end, reach in ((-lower, -low), (upper, high)) if end > 0), default=0.0
    )


def _short(extremes: Extremes) -> float:
    return shortfall(extremes.low.min(), extremes.high.max(), extremes.lower, extremes.upper)


@UNITS.check(
    warn=0.01,
    fail=0.2,
    unit="share of audit.joint_range",
    reason="a controller overshoots a stop by a hundredth; a wrist's roll in degrees goes to 160",
)
def outside_range(extremes: Extremes) -> Iterator[Measure]:
    """Farthest that a joint's state or action lies outside ``audit.joint_range``, as a share of that range.

    LeRobot's normalised joints end at −100 and 100 (a gripper at 0 and 100). What lies beyond is in degrees or in
    encoder ticks, and a policy or a clamp that expects the other units drives the arm against its stops.
    """
    lower, upper, beyond = extremes.lower, extremes.upper, _beyond(extremes)
    joint = int(beyond.max(axis=0).argmax())
    low, high = float(extremes.low.min()), float(extremes.high.max())
    reach = max(-low, high)
    if reach <= MOST_DEGREES:
        turn = 180.0 if reach <= 180 else MOST_DEGREES / 2 if reach <= MOST_DEGREES / 2 else MOST_DEGREES
        looks, advice = "degrees", _joint_range(-turn, turn)
    else:
        looks = "encoder ticks"
        advice = _joint_range(min(outward(low), 0.0), outward(high))
    detail = (
        f"reaches from {extremes.low[:, joint].min():.4g} to {extremes.high[:, joint].max():.4g}; "
        f"{int((beyond.max(axis=1) > 0).sum())} of {len(beyond)} episodes leave {lower:g} to {upper:g}, "
        f"{extremes.episodes[int(beyond.max(axis=1).argmax())]} by most; it looks like {looks}: {advice}"
    )
    yield Measure(float(beyond.max()), subject=extremes.joint_names[joint], detail=detail)


@UNITS.check(
    warn=5.0,
    fail=10.0,
    unit="factor",
    reason="an arm at work leaves the inner fifth of its range; radians stay within the inner thirtieth",
)
def small_values(extremes: Extremes) -> Iterator[Measure]:
    """Factor by which every joint falls short of an end of ``audit.joint_range``.

    The joints of an arm at work do not all stay within a few percent of the middle: such values are radians (at most
    about 3), metres or shares of one. An end at 0 is not asked for.
    """
    low, high = float(extremes.low.min()), float(extremes.high.max())
    if low < extremes.lower or high > extremes.upper:
        return
    typical = float(np.median(np.maximum(-extremes.low.min(axis=0), extremes.high.max(axis=0))))
    looks = "radians (or metres, or shares of one)" if typical <= MOST_RADIANS else "a narrower range"
    detail = f"all joints stay within {low:.4g} to {high:.4g}; it looks like {looks}: "
    yield Measure(_short(extremes), detail=detail + _joint_range(min(outward(low), 0.0), max(outward(high), 0.0)))


@UNITS.check(
    warn=None,
    fail=1.0,
    unit="factor",
    reason="a hundredth of −100 to 100 is 2 units; an encoder's noise is a tenth of that",
)
def still_joint(extremes: Extremes) -> Iterator[Measure]:
    """Factor by which the travel of a joint's state or action, between its 1 % and 99 % quantiles over the dataset,
    falls short of a hundredth of ``audit.joint_range``, where it trembles as noise does.

    A gripper in other units than the joints travels as little, but keeps to one side and then to the other. Normalised,
    the noise of a joint that never moves would fill the joint's whole range, in training and in every
    score. Joints of ``window.exclude_joints`` are left out of these and of every check of joints.
    """
    if _beyond(extremes).max() > 0.2 or _short(extremes) > 10.0:  # in other units a hundredth says nothing
        return
    trembles = np.stack([extremes.tremble[name] >= TREMBLES for name in extremes.travel])
    travels = np.where(trembles, np.stack(list(extremes.travel.values())), np.inf)
    for joint, travel in enumerate(travels.min(axis=0).tolist()):
        feature = list(extremes.travel)[int(travels[:, joint].argmin())]
        detail = f"{feature} moves by {travel:.3g}, less than {extremes.floor:.3g}: name it in params.yaml: "
        factor = extremes.floor / max(travel, 1e-9)
        yield Measure(factor, subject=extremes.joint_names[joint], detail=detail + "window.exclude_joints")
