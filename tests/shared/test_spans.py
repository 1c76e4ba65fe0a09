"""The three spans of a plan, on NumPy and torch alike."""

import numpy as np
import pytest
import torch

from sigma.shared.spans import executed_plan, residuals, split

B, T, C, D = 3, 6, 4, 2


@pytest.mark.parametrize("make", [np.asarray, lambda array: torch.from_numpy(np.asarray(array))])
@pytest.mark.parametrize("chunk", [1, C, T])
def test_a_plan_is_its_spans_put_together_again(make, chunk):
    plan = make(np.random.default_rng(0).normal(size=(B, T, D)))
    spans = split(plan, chunk)
    assert {span: steps.shape[1] for span, steps in spans.items()} == {"vector": 1, "chunk": chunk, "trajectory": T}
    assert (executed_plan(spans) == plan).all()
    different = executed_plan({span: steps * 0 + number for number, (span, steps) in enumerate(spans.items())})
    assert different[0, :, 0].tolist() == [0] + [1] * (chunk - 1) + [2] * (T - chunk)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_a_residual_leads_from_the_bases_action_to_sigmas_on_every_span(make):
    arrays = np.random.default_rng(0).normal(size=(2, B, T, D)).astype(np.float32)
    base, action = (make(array) for array in arrays)
    found = residuals(base, action, C)
    for span, steps in split(base, C).items():
        reached = steps + found[span]
        np.testing.assert_allclose(reached, action[:, : steps.shape[1]], rtol=1e-5, atol=1e-6)
    assert not any(residual.any() for residual in residuals(base, base, C).values())
