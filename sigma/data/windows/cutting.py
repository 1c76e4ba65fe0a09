"""Cutting an episode into windows: where decisions fall, what each sees, what is filtered.

Legend: n frames of the episode, W windows, T horizon, L trace, D joints. A window at decision step t has the actions t,
t + 1, … as targets, and as observation the frame t, the joint states of the steps t − L … t − 1, and the frames 0, S,
2S, … before t that memory reads (S = memory_stride); nothing later than t is observed. The filter reads the whole
horizon, but it only selects training windows and is no input of a model.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Protocol:
    """How windows are cut: horizon T, strides and trace L in steps, chunk_size targets."""

    horizon: int
    chunk_size: int
    memory_stride: int
    train_stride: int
    eval_stride: int
    trace: int


def decision_steps(length: int, protocol: Protocol, split: str) -> np.ndarray:
    """Decision steps of an episode, int64 [W].

    Train episodes are cut every ``train_stride`` steps, held-out ones every ``eval_stride`` steps, all to the end;
    targets past the end are padded and masked. So at ``eval_stride`` = T every step of a held-out episode is scored
    once, the last ones too, in which a gripper lets go.
    """
    stride = protocol.train_stride if split == "train" else protocol.eval_stride
    return np.arange(0, length, stride, dtype=np.int64)


def is_strided(steps: np.ndarray, length: int, horizon: int) -> np.ndarray:
    """Whether a window is one of the floor(n / T) full windows without overlap, bool [W]."""
    return (steps % horizon == 0) & (steps + horizon <= length)


def memory_steps(last: int, stride: int) -> np.ndarray:
    """The steps before step ``last`` at which memory reads an episode: 0, ``stride``, 2·``stride``, … int64."""
    return np.arange(0, last, stride, dtype=np.int64)


def trace_states(state: np.ndarray, steps: np.ndarray, trace: int) -> np.ndarray:
    """Joint states of the ``trace`` steps before each of ``steps``, raw units, oldest first. float32 [n', trace, D].

    ``state`` [n, D] are the states of one episode. A step's own state is not among them. Before the episode began
    its first state is repeated: a robot that stood still.
    """
    index = steps[:, None] - np.arange(trace, 0, -1, dtype=np.int64)[None, :]
    return state[np.maximum(index, 0)].astype(np.float32, copy=False)


def shift_ends(intervention: np.ndarray) -> np.ndarray:
    """For each step the one after which someone else acts, the person or the policy; or the episode's length. int64 [n]

    ``intervention`` bool [n] says where the person acts. LeRobot records nothing between the two, so that what follows
    a change of hands is not what follows in time.
    """
    changes = np.append(np.flatnonzero(np.diff(intervention)) + 1, len(intervention))
    return changes[np.searchsorted(changes, np.arange(len(intervention)), side="right")]


def seconds_to_correction(intervention: np.ndarray, fps: float) -> np.ndarray:
    """Seconds from each step to the next one at which a person acts, 0 where one does, infinite where none follows."""
    steps, corrected = np.arange(len(intervention)), np.flatnonzero(intervention)
    following = np.append(corrected, -1)[np.searchsorted(corrected, steps)]
    return np.where(following < 0, np.inf, (following - steps) / fps).astype(np.float32)


def targets(action: np.ndarray, steps: np.ndarray, chunk_size: int, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Target actions [W, chunk_size, D] and their mask [W, chunk_size]; past ``ends`` [n], of :func:`shift_ends`, the
    last action before it is repeated."""
    index = steps[:, None] + np.arange(chunk_size)[None, :]
    end = ends[steps][:, None]
    return action[np.minimum(index, end - 1)], index < end


def action_norm(action: np.ndarray, steps: np.ndarray, horizon: int) -> np.ndarray:
    """Mean L2 norm of the raw action over each window's steps within the episode, float64 [W]."""
    return _window_mean(np.linalg.norm(action.astype(np.float64), axis=1), steps, horizon)


def motion(state: np.ndarray, action: np.ndarray, spread: np.ndarray, steps: np.ndarray, horizon: int) -> np.ndarray:
    """How much a window commands to move, in normalised units, float64 [W] (own design).

    The mean over the window of the commanded offset ‖a_i − s_i‖ and of the commanded change ‖a_i − a_{i−1}‖, averaged
    with equal weights. Absolute joint targets far from zero have a large norm while nothing moves; this sees it.
    ``spread`` [D] is the raw size of a normalised unit.
    """
    exact_action, exact_state = action.astype(np.float64), state.astype(np.float64)
    offset = np.linalg.norm((exact_action - exact_state) / spread, axis=1)
    change = np.linalg.norm(np.diff(exact_action, axis=0, prepend=exact_action[:1]) / spread, axis=1)
    return _window_mean((offset + change) / 2, steps, horizon)


def _window_mean(values: np.ndarray, steps: np.ndarray, horizon: int) -> np.ndarray:
    return np.array([values[step : step + horizon].mean() for step in steps], dtype=np.float64)


def filter_reasons(norms: np.ndarray, motions: np.ndarray, min_action_norm: float, min_motion: float) -> list[str]:
    """Why each window is filtered: ``min_action_norm``, ``min_motion``, or an empty string where it is kept."""
    return [
        "min_action_norm" if norm < min_action_norm else "min_motion" if moved < min_motion else ""
        for norm, moved in zip(norms, motions, strict=True)
    ]
