"""How much memory Sigma takes on a base, found by running it on the meta device: real classes, real sizes, no numbers.

Every operation of a step runs with shapes alone, while the bytes of all living tensors are counted; so attention,
gradient checkpointing and whatever the heads do are counted as they are, not as a formula says. Left out is what an
allocator adds (rounding, fragmentation) and what a library keeps for itself.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sigma.parameters import Parameters
from sigma.policy.pi05.configuration import ACTION, STATE, fit_joints
from sigma.policy.pi05.placement import large_layers
from sigma.policy.pi05.weights import empty_policy
from sigma.tools.workload import Job, Workload

UNUSED = "language-model heads, unused"
# Of an episode whose dataset is not here: half a minute at 30 Hz.
EPISODE_STEPS = 900
_ITEM = torch.ops.aten._local_scalar_dense.default


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block that are alive, and the most that ever were: ``peak``.

    What exists before, the weights above all, is not counted: pass the model in.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is _ITEM and args[0].is_meta:  # the meta device has no values to give
            return False if args[0].dtype == torch.bool else 0
        # What comes in and was not made here was there before, as the number of a sum with a number is.
        self._note((args, kwargs), counted=False)
        output = function(*args, **(kwargs or {}))
        self._note(output, counted=True)
        return output

    def _note(self, values: Any, *, counted: bool) -> None:
        for tensor in tree_iter(values):
            if not isinstance(tensor, Tensor) or (key := tensor.untyped_storage()._cdata) in self._known:
                continue
            size = tensor.untyped_storage().nbytes() if counted else 0
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            # An address is given out again once its storage is freed.
            weakref.finalize(tensor.untyped_storage(), self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.now -= size
        self._known.discard(key)


@dataclass(frozen=True)
class Group:
    """Parameters of one part: how many, and their bytes in the type that the device holds them in."""

    parameters: int
    bytes: int


def _group(parameters: Iterable[nn.Parameter]) -> Group:
    different = list(dict.fromkeys(parameters))  # a parameter that two modules share counts once
    return Group(sum(p.numel() for p in different), sum(p.numel() * p.element_size() for p in different))


def _modules(*modules: nn.Module) -> Group:
    return _group(parameter for module in modules for parameter in module.parameters())


@dataclass(frozen=True, eq=False)
class Footprint:
    """The memory of Sigma for a base's configuration and a set of parameters; ``work`` is on the meta device.

    ``frozen`` and ``trainable`` are its parts by name, ``layers`` the sizes in bytes of those that several processes
    can split.
    """

    work: Workload
    frozen: dict[str, Group]
    trainable: dict[str, Group]
    layers: list[int]

    @property
    def base_parameters(self) -> int:
        """How many numbers the frozen base holds."""
        return sum(group.parameters for group in self.frozen.values())

    def split(self, processes: int) -> int:
        """Bytes that each of several processes saves by splitting the large layers; one at a time is there whole."""
        return sum(size - -(-size // processes) for size in self.layers) - max(self.layers)

    def weights(self, device: str = "cpu") -> int:
        """Bytes of the frozen base on a device, without what :mod:`sigma.policy.pi05.placement` leaves on the CPU."""
        return sum(group.bytes for name, group in self.frozen.items() if device == "cpu" or name != UNUSED)

    @property
    def trained(self) -> int:
        """Bytes of LoRA and heads."""
        return sum(group.bytes for group in self.trainable.values())

    def peak(self, job: Job, batch: int) -> int:
        """The most bytes alive at once, beside the weights and the inputs, in a job and in the vision tower's pass over
        its B windows before."""
        return max(self._peak(job), self._peak(lambda: self.work.vision(batch)))

    def _peak(self, job: Job) -> int:
        self.work.model.zero_grad(set_to_none=True)
        with LiveBytes(self.work.model) as live:
            result = job()
        del result  # it had to live until the count ended
        self.work.model.zero_grad(set_to_none=True)
        return live.peak


def build_footprint(
    config: PI05Config, parameters: Parameters, joints: int | None = None, longest: int = EPISODE_STEPS
) -> Footprint:
    """Base, LoRA and heads on the meta device.

    Args:
        config: LeRobot's configuration of the base; gets the robot's joints.
        parameters: those of params.yaml.
        joints: of the robot; None counts with the vectors that the configuration declares.
        longest: control steps of the longest episode.
    """
    config.validate_features()
    if joints is not None:
        fit_joints(config, {STATE: joints, ACTION: joints}, "config.json of the base")
    policy = empty_policy(config, parameters.base.dtype).eval().requires_grad_(False)
    core = policy.model
    paligemma, expert = core.paligemma_with_expert.paligemma, core.paligemma_with_expert.gemma_expert
    frozen = {
        "vision tower and projector": _modules(paligemma.model.vision_tower, paligemma.model.multi_modal_projector),
        "language model": _modules(paligemma.model.language_model),
        "action expert": _modules(expert.model),
        "action and time projections": _modules(
            core.action_in_proj, core.action_out_proj, core.time_mlp_in, core.time_mlp_out
        ),
        UNUSED: _modules(paligemma.lm_head, expert.lm_head),
    }
    layers = [_modules(layer).bytes for layer in large_layers(policy)]
    work = Workload(policy, parameters, -(-longest // parameters.window.memory_stride))
    adapters = {name: parameter for name, parameter in policy.named_parameters() if ".lora_" in name}
    trainable = {}
    for title, part in (("language model", ".language_model."), ("action expert", ".gemma_expert.")):
        trainable[f"LoRA on the {title}"] = _group(parameter for name, parameter in adapters.items() if part in name)
    trainable["heads"] = _modules(work.model.heads)
    return Footprint(work, frozen, trainable, layers)
