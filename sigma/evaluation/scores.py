"""Errors of predicted actions against recorded ones: per window first, then averaged over windows.

Legend: W windows, n steps of a span, T horizon, C chunk, D joints. Why these four: the source scores each span by
itself (vector: step 0, chunk: the first C steps, trajectory: all T); the robot executes a mixture, so the executed
plan is scored too. Raw open-loop error ranks policies poorly against success; error where the gripper opens or closes
does better (arXiv 2606.29898), so those windows are scored by themselves.
"""

from collections.abc import Mapping

import numpy as np

from sigma.shared.spans import ABBREVIATIONS, SPANS, executed_plan, split

SPAN_METRICS = {span: f"mse_{ABBREVIATIONS[span]}" for span in SPANS}
METRICS = (*SPAN_METRICS.values(), "mse_plan")
Arm = Mapping[str, np.ndarray]  # metric -> predicted actions [W, n, D]


def plan_arm(plan: np.ndarray, chunk: int) -> Arm:
    """An arm with one plan ``[W, T, D]``: every span is scored on the first steps of it."""
    return span_arm(split(plan, chunk))


def span_arm(actions: Mapping[str, np.ndarray]) -> Arm:
    """An arm with actions ``[W, n, D]`` of its own for each span: each is scored by itself, and so is the executed
    plan."""
    by_metric = {metric: actions[span] for span, metric in SPAN_METRICS.items()}
    return {**by_metric, "mse_plan": executed_plan(actions)}


def _squared(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    return (predicted.astype(np.float64) - target[:, : predicted.shape[1]].astype(np.float64)) ** 2


def window_errors(arm: Arm, target: np.ndarray, valid: np.ndarray, scored: np.ndarray) -> dict[str, np.ndarray]:
    """Mean squared error of each window, ``[W]`` a metric, over valid steps and scored joints.

    ``target [W, T, D]``, ``valid [W, T]``, ``scored [D]``.
    """
    errors = {}
    for metric in METRICS:
        predicted = arm[metric]
        mask = valid[:, : predicted.shape[1], None] & scored
        squared = np.where(mask, _squared(predicted, target), 0.0)
        errors[metric] = squared.sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
    return errors


def step_errors(plan: np.ndarray, target: np.ndarray, valid: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Mean squared error at each horizon step, ``[T]``, over the windows in which the step is valid; 0 where none
    is."""
    by_step = _squared(plan, target)[..., scored].mean(axis=2)
    return np.where(valid, by_step, 0.0).sum(axis=0) / np.maximum(valid.sum(axis=0), 1)


def joint_errors(plan: np.ndarray, target: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean squared error of each joint, ``[D]``: steps averaged within a window, then windows."""
    squared = np.where(valid[..., None], _squared(plan, target), 0.0)
    return (squared.sum(axis=1) / valid.sum(axis=1)[:, None]).mean(axis=0)


def in_joint_units(mse: np.ndarray, q01: np.ndarray, q99: np.ndarray) -> np.ndarray:
    """Root mean squared error in the joints' recorded units from a normalised MSE ``[D]``: q01..q99 spans −1..1."""
    return np.sqrt(mse) * (q99.astype(np.float64) - q01.astype(np.float64)) / 2.0


def critical_windows(target: np.ndarray, valid: np.ndarray, critical: np.ndarray, threshold: float) -> np.ndarray:
    """Windows in which a recorded gripper opens or closes, ``[W]`` bool.

    That is: over its valid steps the recorded action of one of the ``critical`` joints, bool ``[D]``, spans more than
    ``threshold`` normalised units (its whole range is 2).
    """
    grip = target[..., critical]
    highest = np.where(valid[..., None], grip, -np.inf).max(axis=1)
    lowest = np.where(valid[..., None], grip, np.inf).min(axis=1)
    return (highest - lowest > threshold).any(axis=1)
