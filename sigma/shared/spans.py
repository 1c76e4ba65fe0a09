"""The three spans of an action plan at which Sigma steers the base, corrects its action and is scored.

A span is a run of control steps that begins at the decision: ``vector`` is its first step, ``chunk`` the first C steps,
``trajectory`` all T. The source's card calls them branches. Here *branch* is the map by which the factors enter the
action expert on a span, and *scale* the share of a correction that the adapter lets through. Stored names keep the
card's words: ``telepathy_residual_vector``, and ``branches`` in the adapter's calibration.

Shapes: B windows, n steps of a span, T horizon, C chunk, D action dim. Every function takes NumPy arrays or torch
tensors; torch itself is not imported, because the report reads this module too.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from array_api_compat import array_namespace

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SPANS = ("vector", "chunk", "trajectory")
# In the names of metrics (mse_vec) and of loss weights (losses.vec).
ABBREVIATIONS = {"vector": "vec", "chunk": "chk", "trajectory": "trj"}


def span_steps(chunk: int, horizon: int) -> dict[str, int]:
    """How many steps each span has, for a chunk of ``chunk`` steps and a plan of ``horizon`` steps."""
    return {"vector": 1, "chunk": chunk, "trajectory": horizon}


def split[Array: (np.ndarray, Tensor)](plan: Array, chunk: int) -> dict[str, Array]:
    """The steps ``[B, n, D]`` of a plan ``[B, T, D]`` that each span covers, as views; ``chunk`` is C."""
    return {span: plan[:, :steps] for span, steps in span_steps(chunk, plan.shape[1]).items()}


def residuals[Array: (np.ndarray, Tensor)](base: Array, action: Array, chunk: int) -> dict[str, Array]:
    """What scale 1 adds to the base's action ``[B, T, D]`` on each span, ``[B, n, D]``: ``action − base``.

    ``action`` is Sigma's, integrated from the same noise as ``base``.
    """
    return split(action - base, chunk)


def executed_plan[Array: (np.ndarray, Tensor)](actions: Mapping[str, Array]) -> Array:
    """The plan ``[B, T, D]`` that a robot executes, from ``[B, n, D]`` by span: each step from the finest span that
    covers it, which is step 0 from the vector, steps 1..C−1 from the chunk, the rest from the trajectory."""
    vector, chunk, trajectory = (actions[span] for span in SPANS)
    parts = [vector, chunk[:, 1:], trajectory[:, chunk.shape[1] :]]
    return array_namespace(vector).concat(parts, axis=1)
