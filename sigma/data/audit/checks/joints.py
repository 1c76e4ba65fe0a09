"""Checks of joints: what stands still, sticks, jumps, disagrees or is in other units. Each says its unit and why."""

from collections.abc import Iterator

import numpy as np

from sigma.data.audit.check import CheckGroup
from sigma.data.audit.measures import TRAVEL, AuditedEpisode, EpisodeCheck, Measure
from sigma.data.dataset.dataset import ACTION, STATE

# The gripper holds what it grips, and a joint waits: a fault is what lasts three quarters of the frames.
LASTING = 0.25

JOINTS = CheckGroup[EpisodeCheck]()


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]])))
    for first, after in edges.reshape(-1, 2):
        yield int(first), int(after) - 1


def _stalls(audited: AuditedEpisode, still: np.ndarray, moving: np.ndarray, feature: str) -> Iterator[Measure]:
    """Seconds over which every column of ``still`` repeats to the bit while a joint of ``moving`` travels."""
    span = audited.summary.span[feature]
    for first, last in runs((np.diff(still, axis=0) == 0).all(axis=1)):
        travel = np.nan_to_num(np.ptp(moving[first : last + 2], axis=0) / span)
        joint = int(travel.argmax())
        if travel[joint] > TRAVEL:
            seconds = (last - first + 1) / audited.dataset.fps
            detail = f"{feature} meanwhile covered {100 * float(travel[joint]):.0f} % of the joint's range"
            yield Measure(seconds, first, last + 1, audited.joint_names[joint], detail)


@JOINTS.check(
    warn=0.5,
    fail=2.0,
    unit="seconds",
    reason="half a second is the first third of a window at 10 Hz; 2 s are longer than its horizon of 1.6 s",
)
def frozen_state(audited: AuditedEpisode) -> Iterator[Measure]:
    """Seconds over which the whole state is bit-identical while the action moves a joint by 5 % of its range.

    The bus or the recorder had stalled: the action answers an observation that is seconds old, and the policy learns to
    move without seeing itself move. An arm that is told to hold still may well read the same, so that does not count.
    """
    yield from _stalls(audited, audited.rows.state, audited.rows.action, ACTION)


@JOINTS.check(
    warn=1.0,
    fail=3.0,
    unit="seconds",
    reason="an arm settles within a second of its last command; after 3 s something else moved it",
)
def frozen_action(audited: AuditedEpisode) -> Iterator[Measure]:
    """Seconds over which the whole action is bit-identical while the state travels 5 % of a joint's range.

    The leader arm was unplugged or its reading stalled while something else moved the robot: the recorded action is not
    what was done. Coming to rest after a step of the command takes less than a second.
    """
    yield from _stalls(audited, audited.rows.action, audited.rows.state, STATE)


@JOINTS.check(
    warn=0.02,
    fail=0.5,
    unit="share of the joint's range",
    reason="2 % is the play of a joint that holds; a joint commanded over half its range must have moved",
)
def dead_joint(audited: AuditedEpisode) -> Iterator[Measure]:
    """Commanded travel, as a share of the joint's action range, of a joint whose state never changes in the episode.

    A motor or encoder that does not answer: the data teaches that this action has no effect.
    """
    state, action = audited.rows.state, audited.rows.action
    if len(state) < 2:
        return
    travel = np.ptp(action, axis=0) / audited.summary.span[ACTION]
    for joint in np.flatnonzero((state == state[:1]).all(axis=0)):
        yield Measure(float(travel[joint]), 0, len(state) - 1, audited.joint_names[joint], "never moves")


@JOINTS.check(
    warn=0.3,
    fail=None,
    unit="share of frames",
    reason="warns only: a closed gripper sits at its stop; a third of an episode is worth a look",
)
def saturated_joint(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames in which a joint sits bit-exactly at the dataset's lowest or highest value.

    A clipped sensor does that, and a joint at its stop: there the state no longer answers the action. A gripper that is
    closed much of the time does it too, so this warns.
    """
    state, dataset = audited.rows.state, audited.summary.actual[STATE]
    lowest, highest = dataset["min"], dataset["max"]
    clipped = ((state == lowest) | (state == highest)) & (highest - lowest > audited.settings.floor)
    share = clipped.mean(axis=0) if len(state) else np.zeros(0)
    for joint in np.flatnonzero(share):
        frames = np.flatnonzero(clipped[:, joint])
        detail = "at the lowest or highest value of the dataset"
        yield Measure(float(share[joint]), int(frames[0]), int(frames[-1]), audited.joint_names[joint], detail)


def _largest_step(audited: AuditedEpisode, values: np.ndarray, feature: str, counted: np.ndarray) -> Iterator[Measure]:
    """The largest of the steps that are ``counted`` (n − 1,)."""
    moved = np.abs(np.diff(values, axis=0)) / audited.summary.span[feature]
    moved = np.where(counted[:, None], moved, np.nan)
    moved = np.where(np.isfinite(moved) & ~audited.summary.two_level[feature], moved, np.nan)
    if np.isfinite(moved).any():
        step, joint = np.unravel_index(int(np.nanargmax(moved)), moved.shape)
        name, first = audited.joint_names[joint], int(step)
        yield Measure(float(moved[step, joint]), first, first + 1, name, f"{feature} in one step")


@JOINTS.check(
    warn=0.5,
    fail=0.9,
    unit="share of the joint's range",
    reason="half a joint's range in one step is the fastest that a gripper opens at 10 Hz; nine tenths is no motion",
)
def jump(audited: AuditedEpisode) -> Iterator[Measure]:
    """Largest change of a joint's state in one step, as a share of its range over the dataset.

    An arm cannot cross its range in a frame: an encoder that wrapped around, a dropped stretch, or two episodes in one.
    A joint that knows two positions, such as a gripper that is open or shut, is left out. Where a person takes over
    from a policy or hands back, nothing was recorded for a while, and nothing is judged.
    """
    person = audited.rows.person
    yield from _largest_step(audited, audited.rows.state, STATE, person[1:] == person[:-1])


@JOINTS.check(
    warn=0.5,
    fail=0.9,
    unit="share of the joint's range",
    reason="as for jump: an arm must be able to follow what is commanded in one step",
)
def action_jump(audited: AuditedEpisode) -> Iterator[Measure]:
    """Largest change of a joint's action in one step, as a share of its range over the dataset.

    A glitch of the leader arm, or a stretch cut out: a policy that learns it commands what no arm can follow, and what
    a person near the arm does not expect. What a policy commanded is no demonstration and not judged.
    """
    person = audited.rows.person
    yield from _largest_step(audited, audited.rows.action, ACTION, person[1:] & person[:-1])


@JOINTS.check(
    warn=0.1,
    fail=0.3,
    unit="share of the joint's range",
    reason="arms follow within 7 %; a tenth is an offset worth calibrating, three tenths another pose",
)
def diverging_action(audited: AuditedEpisode) -> Iterator[Measure]:
    """Distance of a joint's action from its state that three quarters of the frames exceed, as a share of its range.

    The state follows the action closely but for moments (a fast move, a gripper that holds something). A lasting
    distance is an offset between leader and follower, a sign that was turned, or an action of another episode. A policy
    that pushes against the table is no such fault: what it commanded is not judged.
    """
    rows = audited.rows
    if not rows.person.any():
        return
    apart = np.abs(rows.action - rows.state)[rows.person] / audited.summary.span[STATE]
    lasting = np.nan_to_num(np.quantile(apart, LASTING, axis=0))
    joint = int(lasting.argmax())
    yield Measure(float(lasting[joint]), 0, rows.count - 1, audited.joint_names[joint], "between action and state")


def lead_of_action(state: np.ndarray, action: np.ndarray, span: np.ndarray, reach: int) -> int | None:
    """Frames by which changes of the action come before those of the state: the shift of highest cross-correlation.

    ``state`` and ``action`` are [n, D], each divided by ``span`` [D]; shifts up to ``reach`` either way are tried. None
    where too little moves, or where no shift makes a quarter of the variance agree.
    """
    moves = [np.diff(values.astype(np.float64) / span, axis=0) for values in (state, action)]
    moves = [np.where(np.isfinite(move), move, 0.0) for move in moves]
    if any(len(move) < 2 * reach + 2 or np.abs(move).sum(axis=0).max() < TRAVEL for move in moves):
        return None
    scores = []
    for shift in range(-reach, reach + 1):
        after = moves[0][max(shift, 0) : len(moves[0]) + min(shift, 0)]
        before = moves[1][max(-shift, 0) : len(moves[1]) - max(shift, 0)]
        scores.append((after * before).sum() / np.sqrt((after**2).sum() * (before**2).sum() + 1e-12))
    best = int(np.argmax(scores))
    return best - reach if scores[best] >= 0.5 else None


@JOINTS.check(
    warn=1.0,
    fail=3.0,
    unit="frames",
    reason="a frame more or less is jitter; from a shift of four frames on a chunk of 8 begins in its own middle",
)
def time_shift(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames by which the lead of the action over the state differs from the dataset's median, or by which the state
    comes first, by cross-correlation of their changes.

    State and action were paired wrongly: a queue that lagged, a column shifted in conversion. A policy trained on a
    state that comes after its action is told the answer, and fails on the robot.
    """
    lead = audited.summary.leads.get(audited.episode.index)
    if lead is not None:
        usual = audited.summary.usual_lead
        detail = f"the state follows the action by {lead} frames, in most episodes by {usual:g}"
        yield Measure(max(abs(lead - usual), -lead), detail=detail)


@JOINTS.check(
    warn=5.0,
    fail=10.0,
    unit="factor",
    reason="an episode of small moves reaches a fifth of the others; radians among degrees reach a fiftieth",
)
def other_units(audited: AuditedEpisode) -> Iterator[Measure]:
    """Factor between the largest value of any joint in the episode and the dataset's usual one, the median of episodes.

    An episode in radians or in encoder ticks among others that are not: recorded before a calibration, or by another
    script. What all episodes have in common is judged for the dataset as a whole.
    """
    for feature, values in ((STATE, audited.rows.state), (ACTION, audited.rows.action)):
        finite = np.abs(values[np.isfinite(values).all(axis=1)])
        reach, usual = float(finite.max(initial=0.0)), audited.summary.reach[feature]
        if reach and usual:
            detail = f"{feature} reaches {reach:.4g}, usually {usual:.4g}"
            yield Measure(max(reach / usual, usual / reach), detail=detail)


@JOINTS.check(
    warn=1.5,
    fail=3.0,
    unit="factor",
    reason="a gripped object and lag change a spread by up to a half; radians by a factor of more than 30",
)
def unit_mismatch(audited: AuditedEpisode) -> Iterator[Measure]:
    """Factor between the spread of action and state, the median over the joints that move; 1 where they agree.

    Action and state of one joint are in the same units, so that they spread alike; degrees against −100…100 are a
    factor of 0.5 to 2, radians against either more than 30.
    """
    rows = audited.rows
    if rows.count < 2:
        return
    state, action = (values.astype(np.float64).std(axis=0) for values in (rows.state, rows.action))
    travel = {STATE: np.ptp(rows.state, axis=0), ACTION: np.ptp(rows.action, axis=0)}
    moved = np.any([travel[feature] > TRAVEL * audited.summary.span[feature] for feature in travel], axis=0)
    moved &= (state > 0) & (action > 0)
    if moved.any():
        factor = np.exp(abs(float(np.median(np.log(action[moved] / state[moved])))))
        yield Measure(float(factor), detail=f"over {int(moved.sum())} joints that move")
