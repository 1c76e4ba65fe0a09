"""Demonstrations on disk: the expert's successes as a LeRobotDataset v3.0, written by LeRobot's own writer."""

import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory
from sigma.shared.progress import track
from sigma.shared.seeding import generator, seed_from
from sigma.simulation.expert import NOISE_MEMORY, demonstrate
from sigma.simulation.scene import CAMERAS, CONTROL_HZ, FEATURE_NAMES, World, unit_ranges
from sigma.simulation.task import Monitor, Scenario
from sigma.simulation.tasks import task_named

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

ROBOT_TYPE = "so101_follower"
_ATTEMPTS = 20
_world = functools.cache(World)  # one in each process


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of N control steps; ``rejected`` counts the failed attempts before it."""

    instruction: str
    images: dict[str, np.ndarray]  # camera -> uint8 [N, size, size, 3], taken before each action
    states: np.ndarray  # float32 [N, 6], measured joints in normalised units
    actions: np.ndarray  # float32 [N, 6], the expert's clean joint targets in normalised units
    rejected: int = 0


def attempt(
    world: World, name: str, address: int, scenario: Scenario, noise: float, cameras: Sequence[str], size: int
) -> Demonstration | None:
    """One episode of the expert, or None if it failed; ``address`` is that of its noise.

    What is executed differs from the stored action by noise of standard deviation ``noise`` (normalised units),
    correlated over steps: the arm leaves the plan and the stored actions say how to return (as in DART, Laskey et al.,
    2017).
    """
    world.reset(scenario.layout)
    task = task_named(name)
    monitor = Monitor(task, scenario, world)
    draw = generator("noise", address)
    error = noise * draw.standard_normal(6)
    frames: dict[str, list[np.ndarray]] = {camera: [] for camera in cameras}
    states, actions = [], []
    for action, slack in demonstrate(world, task.waypoints(scenario), scenario.pace):
        states.append(world.state())
        actions.append(action)
        for camera in cameras:
            frames[camera].append(world.render(camera, size))
        world.step(np.clip(action + slack * error, *unit_ranges()))
        monitor.update(world)
        error = NOISE_MEMORY * error + np.sqrt(1 - NOISE_MEMORY**2) * noise * draw.standard_normal(6)
    if not monitor.success:
        return None
    images = {camera: np.stack(views) for camera, views in frames.items()}
    return Demonstration(scenario.instruction, images, np.stack(states), np.stack(actions))


def recorded_scenario(name: str, seed: int, index: int, tries: int) -> tuple[int, Scenario]:
    """Address and beginning of an attempt at the episode of (seed, task, index); words take turns over ``index``."""
    task = task_named(name)
    address = seed_from("record", task.scenes, seed, index, tries)
    return address, task.scenario(address, turn=index)


def demonstration(name: str, seed: int, index: int, noise: float, cameras: Sequence[str], size: int) -> Demonstration:
    """The episode of (seed, task, index): the first success of at most 20 attempts at addresses of its own.

    Raises :class:`SigmaError` where every attempt fails.
    """
    for tries in range(_ATTEMPTS):
        address, scenario = recorded_scenario(name, seed, index, tries)
        success = attempt(_world(), name, address, scenario, noise, cameras, size)
        if success is not None:
            return replace(success, rejected=tries)
    raise SigmaError(f"{name}: the expert failed {_ATTEMPTS} times in a row with noise={noise}; lower the noise")


def demonstrations(jobs: Sequence[tuple], workers: int) -> Iterator[Demonstration]:
    """The :func:`demonstration` of each argument tuple, in order, from ``workers`` processes; one is this process."""
    if workers == 1:
        yield from (demonstration(*job) for job in jobs)
        return
    waiting: deque[Future[Demonstration]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job in jobs:
            waiting.append(pool.submit(demonstration, *job))
            if len(waiting) > 4 * workers:  # the writer may be slower than the workers: memory must not grow
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _features(size: int) -> dict[str, dict]:
    """The LeRobot feature specification of the simulator's episodes."""
    vector = {"dtype": "float32", "shape": (len(FEATURE_NAMES),), "names": list(FEATURE_NAMES)}
    image = {"dtype": "video", "shape": (size, size, 3), "names": ["height", "width", "channels"]}
    views = {f"observation.images.{camera}": dict(image) for camera in CAMERAS}
    return {"observation.state": dict(vector), "action": dict(vector), **views}


def check_new(output: Path) -> None:
    """Raise :class:`SigmaError` where ``output`` exists."""
    if output.exists():
        raise SigmaError(f"{output}: exists already; name a new folder")


@contextmanager
def new_dataset(output: Path, size: int, further: dict[str, dict] | None = None) -> Iterator["LeRobotDataset"]:
    """An empty dataset of the simulator's robot to fill; it becomes ``output`` where the block ends without error.

    ``further`` are LeRobot features beside joints and cameras. The same frames give the same bytes.
    """
    import av
    import datasets
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    check_new(output)
    av.logging.set_libav_level(av.logging.ERROR)  # else the encoder prints a page for every episode
    datasets.disable_progress_bars()
    with atomic_directory(output) as temporary:
        temporary.rmdir()  # LeRobot makes the folder itself, and refuses one that is there
        dataset = LeRobotDataset.create(
            repo_id=f"sigma/{output.name}",
            fps=CONTROL_HZ,
            features=_features(size) | (further or {}),
            root=temporary,
            robot_type=ROBOT_TYPE,
            video_backend="pyav",
            # x264's macroblock tree depends on what its process encoded before: the same pictures, other bytes.
            rgb_encoder=RGBEncoderConfig(
                vcodec="h264", g=10, crf=23, preset="medium", extra_options={"x264-params": "no-mbtree=1"}
            ),
            encoder_threads=1,
        )
        yield dataset
        dataset.finalize()


def frame(views: Mapping[str, np.ndarray], state: np.ndarray, action: np.ndarray, instruction: str) -> dict[str, Any]:
    """One frame as LeRobot's writer takes it."""
    images = {f"observation.images.{camera}": image for camera, image in views.items()}
    return {"observation.state": state, "action": action, "task": instruction, **images}


def record(
    output: Path, tasks: Sequence[str], episodes: Sequence[int], seed: int, size: int, noise: float, workers: int
) -> dict[str, int]:
    """Write demonstrations to the new folder ``output``, ``episodes[i]`` of ``tasks[i]``, tasks taking turns.

    Returns the counts ``episodes``, ``frames`` and ``rejected``. Raises :class:`SigmaError` for an unknown task or
    where ``output`` exists.
    """
    output = Path(output)
    check_new(output)
    for name in tasks:
        task_named(name)
    jobs = [
        (name, seed, index, noise, tuple(CAMERAS), size)
        for index in range(max(episodes))
        for name, count in zip(tasks, episodes, strict=True)
        if index < count
    ]
    rejected = 0
    with new_dataset(output, size) as dataset:
        for episode in track(demonstrations(jobs, workers), "recording", len(jobs)):
            rejected += episode.rejected
            for step, (state, action) in enumerate(zip(episode.states, episode.actions, strict=True)):
                views = {camera: images[step] for camera, images in episode.images.items()}
                dataset.add_frame(frame(views, state, action, episode.instruction))
            dataset.save_episode(parallel_encoding=False)
    return {"episodes": len(jobs), "frames": dataset.meta.total_frames, "rejected": rejected}
