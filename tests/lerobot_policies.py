"""Trained small Sigmas as LeRobot policies, and observations as LeRobot's rollouts give them."""

from pathlib import Path
from typing import Any

import numpy as np

from sigma.tools import export
from tests.worlds import World, inside

WIDE = {"lower": [-1000.0] * 6, "upper": [1000.0] * 6, "max_step": [30.0]}


def write_policy(world: World, folder: Path, **options: Any) -> Path:
    """The world's Sigma as ``sigma export`` writes it, without a clamp unless ``options`` say otherwise."""
    with inside(world.root):
        export.run(output=folder, **({"clamp": False} | options))
    return folder


def views(world: World, step: int) -> list[dict[str, Any]]:
    """What the robots of both test episodes see at this recorded step, with every state since the episode began.

    Where no frame is stored of a step, its images are those of the last one before.
    """
    shards, found = world.shards, []
    for episode in shards.meta["splits"]["test"]:
        row = np.flatnonzero((shards.frame_episode == episode) & (shards.frame_step <= step))[-1]
        trace = world.states(episode, step)
        pictures = shards.images(np.array([row]))[0].permute(0, 2, 3, 1).numpy()
        found.append(
            {
                "images": dict(zip(shards.meta["cameras"], pictures, strict=True)),
                "state": trace[-1],
                "task": shards.tasks[shards.frame_task[row]],
                "trace": trace,
            }
        )
    return found


def lerobot_batch(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The same in the form of LeRobot's environments, through LeRobot's own conversion; these give no trace."""
    from lerobot.envs import preprocess_observation

    cameras = seen[0]["images"]
    pixels = {name.rsplit(".", 1)[-1]: np.stack([view["images"][name] for view in seen]) for name in cameras}
    batch = preprocess_observation({"pixels": pixels, "agent_pos": np.stack([view["state"] for view in seen])})
    return batch | {"task": [view["task"] for view in seen]}
