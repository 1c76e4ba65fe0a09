"""LeRobot discovers the installed distribution, and its trainer says in one line that it cannot train Sigma."""

import os
import subprocess
import sys
from importlib.metadata import distribution

from tests.worlds import ROOT

# LeRobot's entry point, and at its end which simulator it has loaded.
TRAIN = """
import atexit, sys
atexit.register(lambda: print("loaded:", *({"mujoco", "sigma.simulation"} & set(sys.modules))))
sys.argv = ["lerobot-train", "--policy.type=sigma", "--dataset.repo_id=nobody/nothing", "--policy.device=cpu"]
from lerobot.scripts.lerobot_train import main
main()
"""


def test_the_distribution_has_the_name_of_its_module():
    # LeRobot imports a module of the distribution's name, as it stands in the metadata, if it has this prefix.
    name = distribution("lerobot_policy_sigma").metadata["Name"]
    assert name.startswith("lerobot_policy_") and (ROOT / f"{name}.py").is_file()


def test_lerobot_train_finds_the_plugin_and_is_refused_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "sigma" in line]
    assert lines == [
        "sigma: error: lerobot-train cannot train the policy type sigma; Sigma is trained by `dvc repro` and written "
        "as a LeRobot policy by `sigma export`"
    ]
    assert done.stderr.endswith(lines[0] + "\n")
    assert done.stdout.splitlines()[-1].strip() == "loaded:", "a robot's computer needs no simulator"
    assert not list(tmp_path.iterdir())
