"""Datasets of corrections, as LeRobot's dagger strategy records them, joined to demonstrations by LeRobot itself."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sigma.data.dataset.dataset import open_dataset
from sigma.data.dataset.joining import check_corrections, further_episodes, join
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def corrections(tmp_path_factory):
    """Two episodes, a person acts in the second half of the first."""
    folder = tmp_path_factory.mktemp("corrections") / "recorded"
    return write_dataset(folder, lengths=(30, 20), corrected=lambda episode, step: not episode and step >= 15)


def joined(folder: Path, *sources: Path) -> Path:
    folders = [shutil.copytree(source, folder / str(number)) for number, source in enumerate(sources)]
    join(folders, folder / "all")
    return folder / "all"


def test_further_episodes_follow_and_keep_their_marks_and_pictures(tmp_path, dataset_folder, corrections):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder = joined(tmp_path, dataset_folder, corrections)
    own, other, both = map(open_dataset, (dataset_folder, corrections, folder))
    assert [episode.length for episode in both.episodes] == [
        episode.length for dataset in (own, other) for episode in dataset.episodes
    ]
    marks = [rows.intervention for rows in both.read_each(both.episodes)]
    assert [int(mark.sum()) for mark in marks] == [0] * 8 + [15, 0] and marks[8][15:].all()
    read = LeRobotDataset("tests/joined", root=folder, video_backend="pyav")
    source = LeRobotDataset("tests/corrections", root=corrections, video_backend="pyav")
    assert read[326 + 20]["task"] == source[20]["task"]
    assert (read[326 + 20]["observation.images.wrist"] == source[20]["observation.images.wrist"]).all()


def test_the_same_datasets_give_the_same_bytes(tmp_path, dataset_folder, corrections):
    first, second = (joined(tmp_path / name, dataset_folder, corrections) for name in "ab")
    assert digest_folder(first) == digest_folder(second)


@pytest.mark.parametrize(
    ("source", "claimed", "words"),
    [
        ("demonstrations", True, "has no column 'intervention'"),
        ("corrections", False, "holds corrections .* in 15 of 50 frames.*corrections: true"),
        ("untouched", True, "true in none of 10 frames"),
        ("taught", False, "true in every frame"),
    ],
)
def test_what_a_dataset_is_said_to_hold_it_holds(tmp_path, dataset_folder, corrections, source, claimed, words):
    folder = {"demonstrations": dataset_folder, "corrections": corrections}.get(source)
    if folder is None:
        folder = write_dataset(tmp_path / source, lengths=(10,), corrected=lambda *_: source == "taught")
    with pytest.raises(SigmaError, match=rf"params.yaml: fetch.further.0.source: .*{words}"):
        check_corrections(open_dataset(folder), "fetch.further.0.source", claimed)
    if source in ("corrections", "taught"):
        check_corrections(open_dataset(folder), "fetch.further.0.source", True)


def test_episodes_are_told_apart_by_the_order_in_which_they_were_joined():
    further = [{"episodes": 3, "corrections": False}, {"episodes": 2, "corrections": True}]
    assert further_episodes({"episodes": 15, "further": further}) == (range(10, 15), {13, 14})


def test_what_lerobot_cannot_join_is_one_line(tmp_path, dataset_folder, corrections):
    folders = [shutil.copytree(source, tmp_path / source.name) for source in (dataset_folder, corrections)]
    for path in (folders[1] / "meta/episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["dataset_from_index"]), path)
    with pytest.raises(SigmaError, match=r"params.yaml: fetch.further: LeRobot cannot join the datasets") as error:
        join(folders, tmp_path / "all")
    assert "\n" not in str(error.value)
