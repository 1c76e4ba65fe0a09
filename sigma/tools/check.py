"""``sigma check``: what the gate of an exported policy would do on recorded episodes, before a robot moves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sigma.data.dataset.dataset import Dataset, Episode, open_dataset
from sigma.data.dataset.video import decode
from sigma.policy.control.gate import Judgement
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.lerobot.modeling_sigma import SigmaPolicy
from sigma.shared.errors import SigmaError


def run(*, policy: Path, dataset: Path, episodes: int, rename_map: str = "{}") -> str:
    """Lead the policy through the first ``episodes`` of a dataset, as if it had acted as recorded; returns a line for
    each and one for all.

    ``rename_map`` is JSON, a camera of the dataset to its name in the policy. Raises :class:`SigmaError` where the
    policy cannot be loaded, where its adapter chooses nothing, and where the dataset lacks a camera or joints of it.
    """
    try:
        renamed = TypeAdapter(dict[str, str]).validate_json(rename_map)
    except ValidationError:
        raise SigmaError(f'--rename-map: found {rename_map}; legal: JSON, as \'{{"a camera": "its name"}}\'') from None
    recorded = open_dataset(dataset)
    controller = SigmaPolicy.from_pretrained(policy).controller
    if controller.gate is None:
        raise SigmaError(f"{policy}: its adapter's scale is fixed; legal: min_scale below max_scale")
    joints = controller.builder.base.state_dim
    if len(recorded.joint_names) != joints:
        raise SigmaError(f"{dataset}: {len(recorded.joint_names)} joints; {policy} reads {joints}")
    cameras = {renamed.get(camera, camera): camera for camera in recorded.cameras}
    for camera in controller.builder.base.cameras:
        if camera not in cameras:
            option = f"""--rename-map '{{"{min(recorded.cameras)}": "{camera}"}}'"""
            raise SigmaError(
                f"{dataset}: no camera {camera} among {', '.join(cameras)}; say which it is, as by {option}"
            )
    cameras = {camera: cameras[camera] for camera in controller.builder.base.cameras}
    lines, every = [], []
    for episode in recorded.episodes[:episodes]:
        judged = _lead(controller, recorded, episode, cameras)
        held_back = [one for one in judged if one.held_back]
        told = f"; {held_back[0]}" if held_back else ""
        lines.append(
            f"episode {episode.index}: {len(judged)} decisions, median scale "
            f"{np.median([one.scale for one in judged]):.2f}, held back at {len(held_back)}{told}"
        )
        every += judged
    share = np.mean([one.held_back for one in every])
    summary = f"check: held back at {share:.1%} of {len(every)} decisions; of ordinary ones it would be at most "
    return "\n".join([*lines, f"{summary}{controller.adapter.false_alarms:.1%}"])


def _lead(
    controller: SigmaController, recorded: Dataset, episode: Episode, cameras: Mapping[str, str]
) -> list[Judgement]:
    """The gate's judgement of every decision of an episode; what led to a state is the recorded action before it.

    ``cameras`` are the dataset's by their names in the policy.
    """
    gate, rows = controller.gate, recorded.read(episode)
    assert gate is not None
    steps = range(0, episode.length, controller.n_action_steps)
    pictures = {name: dict(decode(recorded, episode, camera, steps)) for name, camera in cameras.items()}
    controller.reset([episode.index])
    for step in steps:
        images = {camera: shown[step] for camera, shown in pictures.items() if step in shown}
        if step:
            gate.follow(episode.index, rows.action[step - 1])
        view = {"images": images, "state": rows.state[step], "trace": rows.state[: step + 1]}
        controller.act([view | {"task": recorded.tasks[rows.task[step]]}], [episode.index])
    return gate.robots[episode.index].judgements
