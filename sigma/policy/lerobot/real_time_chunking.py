"""LeRobot's real-time chunking of Sigma: a plan is made while the one before is executed, and joins on to it.

LeRobot asks for the next plan at any control step and says what of the last one is still to be executed. From that
alone the policy knows how many control steps have passed, which memory and the trace of joint states count by.

    last plan   |--- executed ---|--- left, n rows ----------|
                                 ^ now: the next is asked for
    next plan                    |- kept -|--- its own rows -----------|
                                   delay  ^ LeRobot executes it from here on

Legend: T steps of a plan, n of the last plan's that are left, A action dim, D state dim.
"""

from collections.abc import Callable

import numpy as np
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor

from sigma.policy.adapter.limits import NonFiniteActionError
from sigma.shared.errors import SigmaError

Clamp = Callable[[np.ndarray, np.ndarray], np.ndarray]  # a plan (T, A) and the command (A) before it, to the plan


class RealTimeChunking:
    """One robot's clock, states and last plan, in the robot's units; raises :class:`SigmaError` where LeRobot's
    guidance is switched off, for plans are then queued behind each other and no longer join."""

    def __init__(self, config: RTCConfig):
        if not config.enabled:
            raise SigmaError("--inference.rtc.enabled: found false; legal: true, or --inference.type=sync")
        self.processor = RTCProcessor(config)
        self.reset()

    def reset(self) -> None:
        """The robot begins an episode."""
        self.step = 0  # control steps since the episode began
        self._planned = 0  # the step of the last plan
        self.passed = 0  # control steps since the last plan
        self.command: np.ndarray | None = None  # the last one that was executed
        self._plan: np.ndarray | None = None
        self._seen: list[tuple[int, np.ndarray]] = []
        self._failure: NonFiniteActionError | None = None

    def advance(self, state: np.ndarray, left_over: Tensor | None, steps: int) -> np.ndarray:
        """Count the control steps since the last plan, and remember the state (D) of now; returns what of the last plan
        is left, (n, A). ``steps`` is the length of the trace that will be asked for.

        Raises :class:`SigmaError` where ``left_over`` [n, A] is no part of the last plan, and from a plan that was not
        finite on at every call, for LeRobot would go on with the next one.
        """
        if self._failure is not None:
            raise self._failure
        left = np.zeros((0, len(state)), np.float32) if left_over is None else left_over.float().cpu().numpy()
        # LeRobot fills up with zeros what is shorter than its horizon.
        left = left[: 1 + max(np.flatnonzero(left.any(axis=1)), default=-1)]
        plan = left[:0] if self._plan is None else self._plan
        # LeRobot shows its horizon's rows at most; fewer are the end of the plan, which may repeat a row.
        starts = range(max(0, len(plan) - len(left)) + 1)
        if len(left) < self.processor.rtc_config.execution_horizon:
            starts = starts[-1:]
        elapsed = next((start for start in starts if np.array_equal(plan[start : start + len(left)], left)), None)
        if elapsed is None:
            raise SigmaError(
                "prev_chunk_left_over: found rows that are not of the last plan; reset() begins an episode"
            )
        self.command = plan[elapsed - 1] if elapsed else self.command
        self.passed = elapsed
        # LeRobot asks again where a plan could not be made: the clock counts from the last one that was.
        self.step = self._planned + elapsed
        self._seen = [(step, known) for step, known in self._seen if self.step - steps - len(plan) <= step < self.step]
        self._seen.append((self.step, state))
        return plan[elapsed:]

    def trace(self, steps: int) -> np.ndarray:
        """The states (steps + 1, D) up to now; between two plans the joints count as moving evenly, for LeRobot shows
        the policy nothing there, and before the episode as standing still."""
        known, states = zip(*self._seen, strict=True)
        wanted = np.arange(self.step - steps, self.step + 1)
        joints = [np.interp(wanted, known, joint) for joint in np.stack(states, axis=1)]
        return np.stack(joints, axis=1).astype(np.float32)

    def join(self, plan: np.ndarray, left: np.ndarray, delay: int, state: np.ndarray, clamp: Clamp) -> np.ndarray:
        """The plan (T, A) under the clamp: what is left is executed for the ``delay`` of its making, then it goes on
        from there.

        Where nothing is left for a part of that time the robot stands still, and LeRobot begins with some later row: up
        to there each row is one step away from where it stands. Of an episode's first plan it may be any row.
        """
        kept, held = left[: min(delay, len(plan) - 1)], state if self.command is None else self.command
        held, rest = kept[-1] if len(kept) else held, plan[len(kept) :]
        standing = len(plan) if self._plan is None else delay - len(kept)
        try:
            near = [clamp(row[None], held) for row in rest[: standing + 1]] if standing > 0 else []
            rest = clamp(np.concatenate([*near, rest[len(near) :]]), held)
        except NonFiniteActionError as error:
            self._failure = error
            raise
        self._plan, self._planned = np.concatenate([kept, rest]), self.step
        return self._plan
