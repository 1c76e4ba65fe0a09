"""A small LeRobotDataset v3.0 made by LeRobot's own writer, for tests.

Joints follow slow sine waves that differ by episode and joint; actions lead the state by one step. Each camera shows a
bright square that moves with the step over a gradient that depends on the camera, so that every frame is its own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

CAMERAS = ("observation.images.up", "observation.images.wrist")
JOINTS = ("shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos")
TASKS = ("push the cube", "lift the cube")

Frame = dict[str, object]


def joint_positions(episode: int, step: int, joints: int = len(JOINTS)) -> np.ndarray:
    """Position of each joint in percent of its range, float32 [joints]."""
    joint = np.arange(joints)
    phase = 0.35 * step / (1 + 0.15 * joint) + 0.9 * episode + joint
    return (40 * np.sin(phase) + 3 * joint).astype(np.float32)


def camera_image(episode: int, step: int, camera: int, height: int, width: int) -> np.ndarray:
    """One camera image, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack(
        [rows * 120 // height + 40, columns * 120 // width + 40, np.full_like(rows, 60 + 50 * camera)], axis=-1
    ).astype(np.uint8)
    side = max(height // 5, 2)
    top = (3 * step + 7 * episode) % (height - side)
    left = (5 * step + 11 * camera) % (width - side)
    image[top : top + side, left : left + side] = (230, 200 - 10 * (episode % 8), 30)
    return image


def write_dataset(
    root: Path,
    lengths: Sequence[int] = (40, 33, 52, 36, 48, 35, 44, 38),
    tasks: Sequence[str] = TASKS,
    cameras: Sequence[str] = CAMERAS,
    joints: Sequence[str] = JOINTS,
    size: tuple[int, int] = (48, 64),
    fps: int = 10,
    alter: Callable[[int, int, Frame], Frame] | None = None,
    vcodec: str = "h264",
    use_videos: bool = True,
    corrected: Callable[[int, int], bool] | None = None,
) -> Path:
    """Write episodes of ``lengths`` frames under ``root`` and return it.

    Episode ``e`` carries ``tasks[e % len(tasks)]``. ``size`` is (height, width). ``alter(episode, step, frame)`` may
    change a frame before it is written: the place where a test injects its fault. ``vcodec`` is a LeRobot codec name.
    ``corrected(episode, step)`` says where a person acted, in the column that LeRobot's dagger strategy writes.
    """
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    height, width = size
    vector = {"dtype": "float32", "shape": (len(joints),), "names": list(joints)}
    features = {"observation.state": dict(vector), "action": dict(vector)}
    for camera in cameras:
        names = ["height", "width", "channels"]
        features[camera] = {"dtype": "video" if use_videos else "image", "shape": (height, width, 3), "names": names}
    if corrected:
        features["intervention"] = {"dtype": "bool", "shape": (1,), "names": None}
    dataset = LeRobotDataset.create(
        "tests/small",
        fps=fps,
        features=features,
        root=root,
        robot_type="so101_follower",
        use_videos=use_videos,
        rgb_encoder=RGBEncoderConfig(vcodec=vcodec, crf=16, preset="ultrafast" if vcodec == "h264" else 12),
        encoder_threads=1,
    )
    for episode, length in enumerate(lengths):
        for step in range(length):
            frame: Frame = {
                "observation.state": joint_positions(episode, step, len(joints)),
                "action": joint_positions(episode, step + 1, len(joints)),
                "task": tasks[episode % len(tasks)],
            }
            for index, camera in enumerate(cameras):
                frame[camera] = camera_image(episode, step, index, height, width)
            if corrected:
                frame["intervention"] = np.array([corrected(episode, step)])
            dataset.add_frame(alter(episode, step, frame) if alter else frame)
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return root
