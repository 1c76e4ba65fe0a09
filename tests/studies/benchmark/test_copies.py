"""A dataset with its episodes several times over is a dataset like any other."""

import numpy as np
import pytest

from sigma.data.dataset.dataset import open_dataset
from sigma.data.dataset.video import decode
from sigma.studies.benchmark.copies import repeat_dataset
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    write_dataset(root / "once", lengths=(12, 15, 11))
    return open_dataset(root / "once"), repeat_dataset(root / "once", root / "thrice", 3)


def test_every_copy_of_an_episode_has_its_rows_and_its_frames(both):
    once, thrice = both
    assert len(thrice.episodes) == 9 and thrice.frames == 3 * once.frames
    camera = next(iter(once.cameras))
    for index, episode in enumerate(thrice.episodes):
        original = once.episodes[index % 3]
        assert episode.index == index and episode.length == original.length
        rows, expected = thrice.read(episode), once.read(original)
        assert np.array_equal(rows.state, expected.state) and np.array_equal(rows.frame_index, expected.frame_index)
        first, second = (next(decode(*one, camera, [7]))[1] for one in ((thrice, episode), (once, original)))
        assert np.array_equal(first, second)


def test_lerobot_reads_it_too(both):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    _, thrice = both
    theirs = LeRobotDataset("tests/copies", root=thrice.root, video_backend="pyav")
    assert (theirs.num_episodes, len(theirs)) == (9, thrice.frames)
    assert theirs[len(theirs) - 1]["episode_index"] == 8


def test_files_of_copies_are_their_own_and_videos_are_links(both):
    once, thrice = both
    camera = next(iter(once.cameras))
    paths = {episode.videos[camera].path for episode in thrice.episodes}
    assert len(paths) == 3 * len({episode.videos[camera].path for episode in once.episodes})
    assert all((thrice.root / path).stat().st_nlink >= 4 for path in paths)
