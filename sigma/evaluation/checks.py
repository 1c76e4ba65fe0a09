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

# Names of the two passes in metrics/check_a.json and in heads.json.
PASSES = {"baseline": "control", "sigma": "sigma"}


def check_a(
    heads: Mapping[str, Any], sigma: Mapping[str, np.ndarray], rows: np.ndarray, tolerance: float
) -> dict[str, Any]:
    """Compare the two passes: the heads they loaded, and ``tau_l2`` and ``sem_align`` averaged over windows ``rows``.

    ``heads`` is ``heads.json``, ``sigma`` holds the columns of Sigma's table, and ``tolerance`` is relative to the
    larger of the two averages.
    """
    control, trained = heads["control"], heads["sigma"]
    moments = {key: trained[key] for key in ("mean", "std", "rms")}
    same = all(control[key] == trained[key] for key in ("digest", "tensors"))
    same = same and all(math.isclose(control[key], value, rel_tol=1e-9) for key, value in moments.items())
    averages = {}
    for key, column in (("avg_tau_l2", "tau_l2"), ("avg_semantic_text_alignment", "sem_align")):
        pair = {"baseline": float(sigma[f"control_{column}"][rows].mean()), "sigma": float(sigma[column][rows].mean())}
        averages[key] = pair
        same = same and math.isclose(pair["baseline"], pair["sigma"], rel_tol=tolerance)
    digests = {name: heads[key]["digest"] for name, key in PASSES.items()}
    result = {"heads_tensors": trained["tensors"], **moments, "digest": digests, **averages}
    return {**result, "tolerance": tolerance, "passed": same}


def check_b(differences: Mapping[str, Mapping[str, Difference]], samples: int, batch: int) -> dict[str, Any]:
    """Sigma against the frozen base and against each reference, from ``differences`` by arm and metric.

    Passed: the upper bound of the paired difference lies below 0 at all three scales against the base's mean of samples
    and both trivial references. ``samples`` is the number of test windows, ``batch`` the windows of a batch.
    """
    control = differences["base"]
    return {
        "test": {
            **{metric: difference.to_json("baseline", "sigma") for metric, difference in control.items()},
            "samples": samples,
            "batches": math.ceil(samples / batch),
            "episodes": control["mse_plan"].episodes,
        },
        "references": {
            name: {metric: difference.to_json("reference", "sigma") for metric, difference in differences[name].items()}
            for name in CHECKED
        },
        "passed": not failures(differences),
    }


def failures(differences: Mapping[str, Mapping[str, Difference]]) -> dict[str, list[str]]:
    """The references that keep CHECK B from passing, each with the metrics at which it does."""
    metrics = SPAN_METRICS.values()
    failed = {name: [metric for metric in metrics if not differences[name][metric].below_zero] for name in CHECKED}
    return {name: missed for name, missed in failed.items() if missed}
