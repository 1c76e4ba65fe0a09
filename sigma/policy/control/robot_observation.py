"""From a robot's observation to the policy's inputs, for every controller.

Legend: B robots, V cameras, H×W image size, S the policy's resolution, D joints.
"""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from sigma.policy.pi05.inputs import InputBuilder, trace_before
from sigma.policy.pi05.observation import Observation
from sigma.policy.pi05.prompt import Prompter
from sigma.shared.errors import SigmaError
from sigma.shared.resize import to_resolution


class RobotObservation(TypedDict):
    """What one robot gives at a decision.

    ``images`` maps camera names (full feature names, or their last part) to uint8 ``[H, W, 3]``; ``state`` is ``[D]``
    in raw units; ``task`` is the instruction; ``trace`` ``[n, D]`` are the states of the episode's control steps up to
    this one, oldest first, with ``state`` as the last; only the latest are read. The base alone needs no trace.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray
    task: str
    trace: NotRequired[np.ndarray]


def stack_images(views: Sequence[RobotObservation | dict[str, Any]], cameras: Sequence[str], resolution: int) -> Tensor:
    """The policy's cameras in its order, uint8 ``[B, V, 3, S, S]``; raises :class:`SigmaError` naming a missing one."""
    rows = []
    for view in views:
        images = view["images"]
        pictures = []
        for camera in cameras:
            picture = images.get(camera, images.get(camera.rsplit(".", 1)[-1]))
            if picture is None:
                raise SigmaError(f"the policy needs the camera {camera}; the robot gives {', '.join(sorted(images))}")
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
            pictures.append(to_resolution(pixels, resolution))
        rows.append(torch.stack(pictures))
    return torch.stack(rows)


def live_observation(
    builder: InputBuilder, views: Sequence[RobotObservation | dict[str, Any]], steps: int = 0
) -> Observation:
    """Inputs of B decisions; the base alone needs no trace, of which ``steps`` control steps are read."""
    vision = builder.encode_images(stack_images(views, builder.base.cameras, builder.base.resolution))
    states = np.stack([view["state"] for view in views])
    texts = [view["task"] for view in views]
    trace = np.stack([trace_before(_trace(view), steps) for view in views]) if steps else None
    return builder.observation(vision, states, texts, trace)


def _trace(view: RobotObservation | dict[str, Any]) -> np.ndarray:
    trace = view.get("trace")
    if trace is None or not len(trace) or not np.array_equal(trace[-1], view["state"]):
        raise SigmaError("the model reads the motion before a decision: give trace, states whose last one is the state")
    return trace


def check_words(prompter: Prompter, texts: Sequence[str]) -> None:
    """Raise :class:`SigmaError` naming the first word that is unknown to the policy's tokenizer."""
    for text in texts:
        encoded = prompter.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        for word in prompter.unknown_words(encoded["input_ids"], encoded["offset_mapping"], text):
            raise SigmaError(f"instruction {text!r}: the policy does not know the word {word!r}")
