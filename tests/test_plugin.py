"""LeRobot discovers the installed distribution, and its trainer says in one line that it cannot train Sigma."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution

import pytest

from tests.worlds import ROOT

# LeRobot's entry point, and at its end whether it has loaded the simulator or chosen its GL library.
TRAIN = """
import atexit, os, sys
simulator = {"mujoco", "sigma.simulation.gl", "sigma.simulation.scene"}
atexit.register(lambda: print("loaded:", *(simulator & set(sys.modules)), os.environ.get("MUJOCO_GL", "")))
sys.argv = ["lerobot-train", "--policy.type=sigma", "--dataset.repo_id=nobody/nothing", "--policy.device=cpu"]
from lerobot.scripts.lerobot_train import main
main()
"""


def test_the_distribution_has_the_name_of_its_module():
    # LeRobot imports a module of the distribution's name, as it stands in the metadata, if it has this prefix.
    name = distribution("lerobot_policy_sigma").metadata["Name"]
    assert name.startswith("lerobot_policy_") and (ROOT / f"{name}.py").is_file()


@pytest.mark.minutes
def test_lerobot_train_finds_the_plugin_and_is_refused_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "MUJOCO_GL"} | {"PYTHONPATH": str(ROOT)},
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


INSTALLED = """
import sys
from pathlib import Path
from lerobot.configs import PreTrainedConfig
from lerobot.envs import EnvConfig
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
assert "sigma" in PreTrainedConfig.get_known_choices() and "sigma_so101" in EnvConfig.get_known_choices()
import sigma
from sigma.data.dataset.origin import locate_dataset
from sigma.data.dataset.dataset import open_dataset
from sigma.policy.pi05.description import describe_base
from sigma.tools import profile
assert Path(sigma.__file__).is_relative_to(sys.argv[1])
assert describe_base("embedded", None)["action_dim"] == 6
assert len(open_dataset(locate_dataset("embedded", None)).episodes) == 200
assert profile.names() == ["embedded", "pi05_so101", "source"]
assert profile.load("source")["audit"]["on_failure"] == "keep"
assert not (Path(sys.argv[1]) / "params.yaml").exists(), "the default profile is the package's own"
"""


@pytest.mark.slow
def test_the_wheel_holds_all_that_an_installation_needs(tmp_path):
    """Built and unpacked as an installer does, and run beside no checkout."""
    uv = ROOT / ".tools/bin/uv"
    subprocess.run([uv, "build", "--wheel", "--quiet", "-o", tmp_path / "dist"], cwd=ROOT, check=True)
    (wheel,) = (tmp_path / "dist").glob("lerobot_policy_sigma-*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site")
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert names == {"sigma", "lerobot_policy_sigma.py", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(tmp_path / "site")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
