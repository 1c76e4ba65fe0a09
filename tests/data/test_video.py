import numpy as np
import pytest
import torch

from sigma.data.source import open_dataset
from sigma.data.video import decode
from sigma.errors import SigmaError
from tests.datasets import CAMERAS, camera_image, write_dataset


def test_frames_equal_those_of_lerobot(dataset_folder, dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs = LeRobotDataset("tests/small", root=dataset_folder, video_backend="pyav")
    first = sum(episode.length for episode in dataset.episodes[:4])
    for camera in CAMERAS:
        for step, image in decode(dataset, dataset.episodes[4], camera):
            expected = (theirs[first + step][camera] * 255).round().to(torch.uint8)
            np.testing.assert_array_equal(image, expected.permute(1, 2, 0).numpy())


def test_each_step_has_its_own_frame(dataset):
    episode = dataset.episodes[5]
    decoded = dict(decode(dataset, episode, CAMERAS[1]))
    assert sorted(decoded) == list(range(episode.length))
    for step, image in decoded.items():
        errors = [
            np.abs(image.astype(float) - camera_image(5, other, 1, 48, 64)).mean() for other in range(episode.length)
        ]
        assert int(np.argmin(errors)) == step


def test_chosen_steps_are_those_of_the_whole(dataset):
    episode = dataset.episodes[2]
    whole = dict(decode(dataset, episode, CAMERAS[0]))
    chosen = dict(decode(dataset, episode, CAMERAS[0], [3, 17, 51]))
    assert sorted(chosen) == [3, 17, 51]
    for step, image in chosen.items():
        np.testing.assert_array_equal(image, whole[step])
    assert dict(decode(dataset, episode, CAMERAS[0], [])) == {}


def test_av1_video_is_read(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "av1", lengths=(9, 12), vcodec="libsvtav1"))
    assert [step for step, _ in decode(dataset, dataset.episodes[1], CAMERAS[0])] == list(range(12))


def test_images_in_the_table_are_read_exactly(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "images", lengths=(4, 6), use_videos=False))
    for step, image in decode(dataset, dataset.episodes[1], CAMERAS[1], [0, 5]):
        np.testing.assert_array_equal(image, camera_image(1, step, 1, 48, 64))


def test_file_that_is_no_video_is_named(tmp_path):
    folder = write_dataset(tmp_path / "bad", lengths=(6,))
    path = next((folder / "videos" / CAMERAS[0]).rglob("*.mp4"))
    path.write_bytes(b"no video" * 100)
    dataset = open_dataset(folder)
    with pytest.raises(SigmaError, match=f"{path}: episode 0 cannot be decoded"):
        list(decode(dataset, dataset.episodes[0], CAMERAS[0]))
