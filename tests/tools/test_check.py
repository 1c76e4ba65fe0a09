"""``sigma check``: what the gate says of recorded episodes."""

import pytest

from sigma.shared.errors import SigmaError
from sigma.tools import check, export
from tests.datasets import write_dataset
from tests.worlds import inside


@pytest.fixture(scope="module")
def policy(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "policy"
    trained.configure()
    with inside(trained.root):
        export.run(output=folder, clamp=False)
    return folder


def test_recorded_episodes_pass_and_strange_ones_are_told_with_the_reason(trained, policy, tmp_path):
    line, summary = check.run(policy=policy, dataset=trained.root / "recorded", episodes=1).splitlines()
    assert line.startswith("episode 0: 7 decisions, median scale 1.00")
    assert summary.endswith("of 7 decisions; of ordinary ones it would be at most 0.1%")
    write_dataset(tmp_path / "other", lengths=(12,), tasks=("open the drawer",))
    told = check.run(policy=policy, dataset=tmp_path / "other", episodes=5)
    assert "held back at 3; step 0: scale 0.00, for the instruction" in told and "(wording, p " in told
    assert "held back at 100.0% of 3 decisions" in told


def test_what_is_no_dataset_and_an_adapter_that_chooses_nothing_are_refused(trained, policy, tmp_path):
    with pytest.raises(SigmaError, match="not a LeRobotDataset folder"):
        check.run(policy=policy, dataset=tmp_path / "none", episodes=1)
    fixed = tmp_path / "fixed"
    trained.configure({"adapter": {"min_scale": 1.0}})
    with inside(trained.root):
        export.run(output=fixed, clamp=False)
    trained.configure()
    write_dataset(tmp_path / "front", lengths=(12,), cameras=("observation.images.front", "observation.images.wrist"))
    line = r"no camera observation.images.up among .*front.*; say which it is, as by --rename-map '(.*)'$"
    with pytest.raises(SigmaError, match=line) as caught:
        check.run(policy=policy, dataset=tmp_path / "front", episodes=1)
    pasted = str(caught.value).split("--rename-map '")[1].removesuffix("'")
    assert "of 3 decisions" in check.run(policy=policy, dataset=tmp_path / "front", episodes=1, rename_map=pasted)
    with pytest.raises(SigmaError, match="--rename-map: found up=front; legal: JSON"):
        check.run(policy=policy, dataset=tmp_path / "front", episodes=1, rename_map="up=front")
    with pytest.raises(SigmaError, match="its adapter's scale is fixed; legal: min_scale below max_scale"):
        check.run(policy=fixed, dataset=trained.root / "recorded", episodes=1)
