"""References that Sigma is compared with, from the same recorded windows.

A head that minimises squared error beats any stochastic sampler by predicting its mean (a perfect sampler has twice the
error of the conditional mean), so the base's mean of samples stands beside its single sample.

Legend: W windows, T horizon, D joints, S samples.
"""

from collections.abc import Mapping

import numpy as np

TRIVIAL = ("hold_state", "mean_trajectory")
CHECKED = ("base_mean_of_samples", *TRIVIAL)
TITLES = {
    "base": "frozen π0.5",
    "sigma": "Sigma",
    "sigma_scale_1": "Sigma at scale 1",
    "sigma_memory_cleared": "Sigma, memory cleared",
    "base_one_sample": "π0.5, one sample",
    "base_zero_noise": "π0.5, zero noise",
    "base_mean_of_samples": "π0.5, mean of samples",
    "hold_state": "hold state",
    "mean_trajectory": "mean trajectory",
}


def hold_state(hold: np.ndarray, horizon: int) -> np.ndarray:
    """Stay where the arm is: ``hold [W, D]`` (the state now, in the action's normalised units) at every step."""
    return np.repeat(hold[:, None], horizon, axis=1)


def mean_trajectory(target: np.ndarray, valid: np.ndarray, step: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The mean action of the train episodes at the same time of an episode, ``[W, T, D]``.

    For each window: the mean recorded actions of the train windows whose decision step is nearest to its own (of both,
    where two are equally near). This is stronger than one mean over all train windows, because it follows the
    demonstrations' clock. Padded steps are left out of the mean unless no train window has that step.
    """
    rows = np.flatnonzero(train)
    result = np.empty(target.shape, dtype=np.float64)
    for moment in np.unique(step):
        distance = np.abs(step[rows] - moment)
        near = rows[distance == distance.min()]
        actions, weight = target[near].astype(np.float64), valid[near].astype(np.float64)
        weight[:, weight.sum(axis=0) == 0] = 1.0
        result[step == moment] = (actions * weight[..., None]).sum(axis=0) / weight.sum(axis=0)[:, None]
    return result


def reference_plans(base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every reference's plan ``[W, T, D]`` from the baseline table's columns."""
    target, samples = base["action"], base["base_samples"]
    return {
        "base_one_sample": samples[:, 0],
        "base_zero_noise": base["base_zero_noise"],
        "base_mean_of_samples": samples.astype(np.float64).mean(axis=1),
        "hold_state": hold_state(base["hold"], target.shape[1]),
        "mean_trajectory": mean_trajectory(target, base["valid"], base["step"], base["split"] == "train"),
    }
