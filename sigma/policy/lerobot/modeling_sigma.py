"""Sigma as LeRobot's commands run it: the closed-loop controller behind the interface of a LeRobot policy.

Legend: B robots, T horizon, A action dim, D state dim, H×W image size.
"""

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.limits import limit_action
from sigma.policy.control.robot_observation import RobotObservation
from sigma.policy.control.sigma_controller import SigmaController, check_action_steps
from sigma.policy.lerobot import policy_folder
from sigma.policy.lerobot.configuration_sigma import TRAINED_BY, PolicyError, SigmaConfig, in_one_line
from sigma.policy.lerobot.processor_sigma import pixels
from sigma.policy.lerobot.real_time_chunking import RealTimeChunking
from sigma.policy.lerobot.rollout_check import check_command, check_joints
from sigma.policy.model.vla import SigmaTelepathyVLA
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.description import STATE
from sigma.shared.errors import SigmaError

log = logging.getLogger(__name__)

TASK, TRACE = "task", "trace"


class SigmaPolicy(PreTrainedPolicy):
    """A trained Sigma on its base; made by :meth:`from_pretrained` alone.

    Observations come as :func:`~sigma.policy.lerobot.processor_sigma.make_sigma_pre_post_processors` gives them:
    images [B, 3, H, W] in [0, 1] under the base's camera names, ``observation.state`` [B, D] in the robot's units,
    ``task`` a list of B instructions. Actions are in the robot's units, clamped where the configuration says so.

    Memory is kept between calls and clocked by control steps: ``n_action_steps`` of them pass between two decisions.
    :meth:`reset` begins an episode of every robot; the size of the batch may change only there. A decision also reads
    the joint states of the control steps before it: :meth:`select_action` sees them all, :meth:`predict_action_chunk`
    is given them as ``trace`` [B, n, D], oldest first and the present one last, from an episode's second decision on.
    """

    config_class = SigmaConfig
    name = "sigma"

    def __init__(self, config: SigmaConfig, *, folder: Path | None = None, **_: Any):
        """``folder`` is a policy folder; LeRobot's factory gives none where a policy shall begin untrained."""
        super().__init__(config)
        if folder is None:
            raise PolicyError(f"a policy of type sigma has no untrained form; {TRAINED_BY}: --policy.path=FOLDER")
        self.folder = folder
        self.controller = _load(config, folder)
        self.vla = self.controller.vla
        self._chunking: RealTimeChunking | None = None
        self.reset()

    @classmethod
    @in_one_line()
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **options: Any
    ) -> "SigmaPolicy":
        """Load a folder that ``sigma export`` or :meth:`save_pretrained` wrote, or a Hub repository of its form.

        Of LeRobot's other ``options`` those of a download count. Weights load strictly, whatever ``strict`` says, on
        the base that ``config`` names, whose tensors are compared with the digests in ``base.json``. Raises
        :class:`PolicyError`, a :class:`SigmaError`, on any fault.
        """
        folder = policy_folder.fetch(str(pretrained_name_or_path), options)
        config = config or PreTrainedConfig.from_pretrained(folder)
        if not isinstance(config, SigmaConfig):
            raise SigmaError(f"{folder / 'config.json'}: type: found {config.type!r}; legal: sigma")
        return cls(config, folder=folder).eval()

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """The same folder again, with this configuration. Nothing here trains, so files are copied, not written."""
        if state_dict is not None:
            raise PolicyError(f"other weights cannot be saved as this policy; {TRAINED_BY}")
        if Path(save_directory).resolve() == self.folder.resolve():
            raise PolicyError(f"{save_directory}: is where this policy was loaded from; choose another folder")
        policy_folder.write_parts(
            Path(save_directory),
            model=self.folder / policy_folder.MODEL,
            calibration=self.folder / policy_folder.CALIBRATION,
            base=self.folder / policy_folder.BASE,
            config=self.config,
        )

    def reset(self) -> None:
        """Every robot begins an episode: memory, pending actions and the last command are forgotten."""
        with in_one_line():
            check_joints(self.vla.config["joint_names"])
        self._rows: list[int] | None = None  # the robots' numbers; None until the first decision fixes how many
        self._queue: deque[np.ndarray] = deque()
        self._command: np.ndarray | None = None
        if self._chunking is not None:
            self._chunking.reset()
        self._seen: list[np.ndarray] = []  # states [B, D] of the latest control steps, as many as a decision reads

    def drop_queued_actions(self) -> None:
        """Decide anew at the next control step, which LeRobot after 0.6.1 asks for when the instruction changes; memory
        and the last command are kept."""
        for row in self._rows or []:
            self.controller.episodes[row].step -= len(self._queue)  # these steps will not be executed
            if self._queue and self.controller.gate is not None:
                assert self._command is not None
                self.controller.gate.follow(row, self._command[row], self.config.n_action_steps - len(self._queue))
        self._queue.clear()

    def supports_rtc(self) -> bool:
        return True

    @in_one_line()
    def init_rtc_processor(self) -> None:
        """LeRobot calls this once it has put its settings of real-time chunking into ``config.rtc_config``."""
        settings = getattr(self.config, "rtc_config", None)
        self._chunking = None if settings is None else RealTimeChunking(settings)

    @in_one_line()
    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        noise: Tensor | None = None,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
        **others: Any,
    ) -> Tensor:
        """The plan (B, T, A) of one decision; a clamp begins at the measured state.

        ``noise`` (B, Tc, A') is the base's initial noise instead of its deterministic action. The next three are those
        of LeRobot's real-time chunking of one robot (:mod:`sigma.policy.lerobot.real_time_chunking`): the plan goes on
        from ``prev_chunk_left_over`` [n, A], and no trace is needed. Raises :class:`SigmaError` naming any other
        argument, and where ``trace`` is missing among the observations.
        """
        _refuse(others)
        if self._chunking is not None:
            delay, left = inference_delay or 0, prev_chunk_left_over
            return self._next_chunk(self._chunking, batch, noise, delay, left, execution_horizon)
        if prev_chunk_left_over is not None:
            raise SigmaError("prev_chunk_left_over: real-time chunking is off; call init_rtc_processor()")
        states = self._states(batch)
        if TRACE in batch:
            trace = batch[TRACE].float().cpu().numpy()
            if trace.ndim != 3 or len(trace) != len(states):
                raise SigmaError(f"{TRACE}: found shape {trace.shape}; legal: [{len(states)}, n, D], one a robot")
        elif self._rows is None or not self.vla.config["sizes"]["trace"]:
            trace = states[:, None]
        else:
            way = "call select_action at every control step, or give them as [B, n, D]"
            raise SigmaError(f"{TRACE!r} is missing: the model reads the joint states since the last decision; {way}")
        return torch.from_numpy(self._clamped(self._decide(batch, states, trace, noise), states))

    def _next_chunk(
        self,
        chunking: RealTimeChunking,
        batch: dict[str, Any],
        noise: Tensor | None,
        delay: int,
        left_over: Tensor | None,
        horizon: int | None,
    ) -> Tensor:
        """The plan (1, T, A) that goes on from what is left of the last one."""
        states, steps, pull = self._states(batch), self.vla.config["sizes"]["trace"], None
        if len(states) != 1:
            raise SigmaError(f"real-time chunking: found {len(states)} robots; legal: 1")
        left = chunking.advance(states[0], left_over, steps)
        if self._rows is not None:
            self.controller.episodes[0].step = chunking.step
            if self.controller.gate is not None and chunking.command is not None:
                self.controller.gate.follow(0, chunking.command, chunking.passed)
        if len(left):
            normalised = torch.from_numpy(self.vla.normalisation.action.normalise(left)[None])
            pull = prefix.Guidance(chunking.processor, normalised.to(self.vla.builder.device), delay, horizon)
        with prefix.guided(pull):
            plan = self._decide(batch, states, chunking.trace(steps)[None], noise)[0]
        return torch.from_numpy(chunking.join(plan, left, delay, states[0], self._clamped)[None])

    @in_one_line()
    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], noise: Tensor | None = None, **others: Any) -> Tensor:
        """The action (B, A) of this control step; every ``n_action_steps`` calls there is a new decision.

        A clamp goes on from the last command, at first from the measured state.
        """
        _refuse(others)
        states = self._states(batch)
        seen = [*self._seen, states][-self.vla.config["sizes"]["trace"] - 1 :]
        if not self._queue:
            plan = self._decide(batch, states, np.stack(seen, axis=1), noise)[:, : self.config.n_action_steps]
            start = states if self._command is None else self._command
            plan = self._clamped(plan, start)
            self._queue.extend(plan.swapaxes(0, 1))
            if self.controller.gate is not None:
                for row, rows in enumerate(plan):
                    self.controller.gate.follow(row, rows[-1])  # what the robot is told, not what was planned
        self._seen = seen  # only now: a refused batch leaves no trace
        self._command = self._queue.popleft()
        return torch.from_numpy(self._command.copy())

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict | None]:
        raise PolicyError(f"LeRobot cannot train the policy type sigma; {TRAINED_BY}")

    def get_optim_params(self) -> dict:
        raise PolicyError(f"LeRobot cannot train the policy type sigma; {TRAINED_BY}")

    def _decide(
        self, batch: Mapping[str, Any], states: np.ndarray, trace: np.ndarray, noise: Tensor | None
    ) -> np.ndarray:
        """The plan (B, T, A) of one decision, not clamped."""
        views = self._views(batch, states, trace)
        self.eval()
        if self._rows is None:
            self._rows = list(range(len(views)))
            self.controller.reset(self._rows)
        plan = self.controller.act(views, self._rows, noise=noise)
        for line in self.controller.news():
            log.warning(line)
        return plan

    def _clamped(self, plan: np.ndarray, command: np.ndarray) -> np.ndarray:
        """The plan (..., T, A) under the clamp, from the ``command`` (..., A) before it on."""
        clamped = []
        for action in np.moveaxis(plan, -2, 0):
            command = limit_action(action, command, *self.config.limits)
            clamped.append(command)
        return np.stack(clamped, axis=-2)

    def _states(self, batch: Mapping[str, Any]) -> np.ndarray:
        """The states [B, D] of a batch, which has as many robots as the batches before it."""
        _require(batch, STATE)
        states, joints = batch[STATE].float().cpu().numpy(), self.vla.config["joint_names"]
        if states.ndim != 2 or states.shape[1] != len(joints):
            raise SigmaError(f"{STATE}: found shape {states.shape}; legal: [B, {len(joints)}], {', '.join(joints)}")
        if self._rows is not None and len(states) != len(self._rows):
            raise SigmaError(f"a batch of {len(states)} robots after one of {len(self._rows)}; call reset() between")
        return states

    def _views(self, batch: Mapping[str, Any], states: np.ndarray, trace: np.ndarray) -> list[RobotObservation]:
        cameras = self.vla.config["cameras"]
        _require(batch, *cameras, TASK)
        tasks = [batch[TASK]] if isinstance(batch[TASK], str) else list(batch[TASK])
        pictures = {camera: pixels(camera, batch[camera]) for camera in cameras}
        rows = {len(states), len(tasks), *map(len, pictures.values())}
        if states.ndim != 2 or len(rows) != 1:
            raise SigmaError(f"{STATE} {states.shape}, {len(tasks)} tasks: legal: [B, D], B images and B instructions")
        return [
            RobotObservation(
                images={camera: images[row] for camera, images in pictures.items()},
                state=states[row],
                task=tasks[row],
                trace=trace[row],
            )
            for row in range(len(states))
        ]


def _refuse(others: Mapping[str, Any]) -> None:
    if others:
        raise PolicyError(f"{min(others)}: unknown argument; legal: noise, and real-time chunking's for a chunk")


def _require(batch: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if key not in batch:
            raise SigmaError(f"{key!r} is missing among {', '.join(sorted(batch))}; rename it by --rename_map")


def _load(config: SigmaConfig, folder: Path) -> SigmaController:
    """The controller with its model; everything that can be refused is refused before any weights are read."""
    model, calibration = folder / policy_folder.MODEL, folder / policy_folder.CALIBRATION
    described, reference = policy_folder.check_parts(model, calibration, folder / policy_folder.BASE)
    check_command(described)
    check_action_steps(config.n_action_steps, described)
    joints = described["sizes"]["action_dim"]
    if config.joint_lower is not None and len(config.joint_lower) != joints:
        raise SigmaError(f"joint_lower, joint_upper: found {len(config.joint_lower)} joints; legal: {joints}")
    try:
        adapter = SigmaTelepathyAdapter(**asdict(config.adapter))
    except ValueError as error:
        raise SigmaError(f"adapter: {error}") from None
    reference = {**reference, "source": config.base_source, "revision": config.base_revision}
    dtype = described["weights_dtype"]
    vla = SigmaTelepathyVLA.from_base(
        base_policy=load_base(reference, device=config.device, dtype=dtype, download=True),
        lora_dir=model,
        device=config.device,
        dtype=getattr(torch, dtype),
    )
    return SigmaController(vla, adapter=adapter, calibration=calibration, n_action_steps=config.n_action_steps)
