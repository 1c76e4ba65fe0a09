"""CHECK A and CHECK B of the source, made falsifiable. Failing is a result, not an error.

CHECK A: control and Sigma carry the same telepathy heads, and these give factors and alignments of the same size in
both, so that a difference in control cannot come from other heads. CHECK B: Sigma's error lies below that of strong
references at every scale, with an interval over episodes that excludes zero.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import CHECKED
from sigma.evaluation.scores import SPAN_METRICS
from sigma.shared.errors import SigmaError

PASSES = {"baseline": "control", "sigma": "sigma"}


def _close(first: float, second: float, tolerance: float) -> bool:
    return abs(first - second) <= tolerance * max(abs(first), abs(second))


def check_a(
    heads: Mapping[str, Any], sigma: Mapping[str, np.ndarray], rows: np.ndarray, tolerance: float
) -> dict[str, Any]:
    """Compare the two passes: the heads they loaded, and ``tau_l2`` and ``sem_align`` averaged over windows ``rows``.

    ``heads`` holds ``control`` and ``sigma``, each with ``digest``, ``tensors``, ``mean``, ``std``, ``rms``; ``sigma``
    the columns of Sigma's table; ``tolerance`` is relative to the larger of the two averages.
    """
    try:
        control, own = heads["control"], heads["sigma"]
        same = all(control[key] == own[key] for key in ("digest", "tensors"))
        same = same and all(_close(control[key], own[key], 1e-9) for key in ("mean", "std", "rms"))
        result = {
            "heads_tensors": own["tensors"],
            **{key: own[key] for key in ("mean", "std", "rms")},
            "digest": {name: heads[key]["digest"] for name, key in PASSES.items()},
        }
    except (KeyError, TypeError) as error:
        raise SigmaError(f"data/predictions/heads.json: {error} is missing; run the stage again (dvc repro)") from None
    for key, column in (("avg_tau_l2", "tau_l2"), ("avg_semantic_text_alignment", "sem_align")):
        pair = {"baseline": float(sigma[f"control_{column}"][rows].mean()), "sigma": float(sigma[column][rows].mean())}
        result[key] = pair
        same = same and _close(pair["baseline"], pair["sigma"], tolerance)
    return {**result, "tolerance": tolerance, "passed": bool(same)}


def check_b(
    control: Mapping[str, Difference], references: Mapping[str, Mapping[str, Difference]], samples: int, batch: int
) -> dict[str, Any]:
    """Sigma against the frozen base (``control``, by metric) and against each reference (by name and metric).

    Passed: the upper bound of the paired difference lies below 0 at all three scales against the base's mean of samples
    and both trivial references.
    """
    episodes = next(iter(control.values())).episodes
    return {
        "test": {
            **{metric: difference.to_json("baseline", "sigma") for metric, difference in control.items()},
            "samples": samples,
            "batches": math.ceil(samples / batch),
            "episodes": episodes,
        },
        "references": {
            name: {metric: item.to_json("reference", "sigma") for metric, item in references[name].items()}
            for name in CHECKED
        },
        "passed": not failures(references),
    }


def failures(references: Mapping[str, Mapping[str, Difference]]) -> list[tuple[str, str]]:
    """Which (reference, metric) pairs keep CHECK B from passing."""
    metrics = SPAN_METRICS.values()
    return [(name, metric) for name in CHECKED for metric in metrics if not references[name][metric].below_zero]
