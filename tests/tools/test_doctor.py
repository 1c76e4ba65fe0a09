"""``sigma doctor``: what it says of two folders is what the stages then do."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.tools import doctor
from tests.bases import CAMERAS, write_tiny_base
from tests.datasets import JOINTS, write_dataset
from tests.worlds import World, inside, merge


def diagnose(world, **changes) -> tuple[str, bool]:
    parameters = world.configure(changes)
    with inside(world.root):
        return doctor.run(parameters, dataset=str(world.root / "recorded"), base=str(world.root / "base"))


def test_the_printed_settings_are_those_with_which_fetch_takes_the_two(tmp_path):
    """Radians, cameras of other names, a base without statistics of these joints, and fewer episodes than are held out
    of the shipped dataset."""
    write_tiny_base(tmp_path / "base", padded=32, statistics={}, tokenizer_max_length=64)

    def in_radians(episode, step, frame):
        return frame | {key: frame[key] / 57.3 for key in ("observation.state", "action")}

    write_dataset(tmp_path / "recorded", lengths=(28,) * 8, cameras=("observation.images.front",), alter=in_radians)
    world = World(tmp_path)
    with pytest.raises(SigmaError, match=r"window\.cameras"):
        world.run("fetch")
    report, fits = diagnose(world, window={"validation": 25, "test": 50})
    assert fits, report
    assert "8 episodes, 224 frames at 10 Hz" in report and "looks like radians" in report
    settings = YAML(typ="safe").load(report.partition("stay as they are):\n")[2].rpartition("\n")[0])
    assert settings["window"]["cameras"] == {CAMERAS[0]: "observation.images.front", CAMERAS[1]: None}
    assert (settings["window"]["validation"], settings["window"]["test"]) == (2, 3)
    joints = settings["audit"]["joint_range"]
    assert -1.0 <= joints["lower"] < 0 < joints["upper"] <= 1.0
    assert settings["base"] == {"statistics": "dataset", "instructions": []}
    world.run("fetch", changes=merge({}, settings))


def test_what_is_written_is_what_is_printed_and_no_comment_is_lost(tmp_path):
    write_tiny_base(tmp_path / "base", tokenizer_max_length=64)
    write_dataset(tmp_path / "recorded", lengths=(28,) * 8, cameras=("observation.images.front",))
    file = tmp_path / "params.yaml"
    file.write_text((Path(doctor.__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    before = file.read_text(encoding="utf-8").splitlines()
    report, fits = doctor.run(
        read_parameters(file), dataset=str(tmp_path / "recorded"), base=str(tmp_path / "base"), write=file
    )
    assert fits and f"written into {file}" in report
    printed = YAML(typ="safe").load(report.partition("stay as they are):\n")[2].rpartition("no stage")[0])
    written, after = YAML(typ="safe").load(file), file.read_text(encoding="utf-8").splitlines()
    for section, values in printed.items():
        assert values.items() <= written[section].items()
    comments = [[line.partition("#")[2].strip() for line in lines if "#" in line] for lines in (before, after)]
    assert comments[0] == comments[1]


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("lerobot/pi05_base@" + "a" * 40, ("lerobot/pi05_base", "a" * 40)),
        ("lerobot/pi05_base", ("lerobot/pi05_base", None)),
        ("/data/demos", ("/data/demos", None)),
    ],
)
def test_an_address_is_an_id_and_its_commit(address, parts):
    assert doctor._pinned(address) == parts


@pytest.mark.parametrize(
    ("have", "pairs"),
    [
        # π0.5's own names; where no word tells, in their order
        (["wrist_left", "front"], {"base_0_rgb": "front", "left_wrist_0_rgb": "wrist_left", "right_wrist_0_rgb": None}),
        (["wrist", "top"], {"base_0_rgb": "top", "left_wrist_0_rgb": "wrist", "right_wrist_0_rgb": None}),
        (["right_hand", "cam0"], {"base_0_rgb": "cam0", "left_wrist_0_rgb": None, "right_wrist_0_rgb": "right_hand"}),
        (["one"], {"base_0_rgb": "one", "left_wrist_0_rgb": None, "right_wrist_0_rgb": None}),
    ],
)
def test_cameras_are_paired_by_what_their_names_say(have, pairs):
    assert doctor._pair_cameras(have, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]) == pairs


def test_what_no_setting_mends_is_refused_in_the_words_of_the_stage(tmp_path):
    write_tiny_base(tmp_path / "base")
    write_dataset(tmp_path / "recorded", lengths=(28, 28))
    report, fits = diagnose(World(tmp_path))
    assert not fits
    assert "refused: params.yaml: window." in report
    assert not (tmp_path / "data").exists()
    write_dataset(tmp_path / "other", lengths=(28,), joints=(*JOINTS, "extra.pos"))
    with pytest.raises(SigmaError, match="the robot 7 joints; legal: at most 6 joints"), inside(tmp_path):
        doctor.run(World(tmp_path).configure(), dataset="other", base="base")
