"""Sigma as a LeRobot policy: settings of how it acts. The model itself is described by ``model/config.json``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig

from sigma.shared.errors import SigmaError

TRAINED_BY = "Sigma is trained by `dvc repro` and written as a LeRobot policy by `sigma export`"


class PolicyError(SigmaError, SystemExit):
    """A user's mistake under one of LeRobot's commands.

    LeRobot's commands do not know :class:`SigmaError` and would print a traceback; a ``SystemExit`` ends them with one
    line and status 1.
    """

    def __init__(self, message: str):
        SystemExit.__init__(self, f"sigma: error: {message}")


@contextmanager
def in_one_line() -> Iterator[None]:
    """Under LeRobot's commands a :class:`SigmaError` ends in one line; also a decorator."""
    try:
        yield
    except PolicyError:
        raise
    except SigmaError as error:
        raise PolicyError(" ".join(str(error).split())) from None


@dataclass
class AdapterConfig:
    """The section ``adapter`` of ``params.yaml``; see :class:`sigma.policy.adapter.adapter.SigmaTelepathyAdapter`."""

    min_scale: float = 0.0
    max_scale: float = 1.0
    risk_temperature: float = 0.5
    false_alarms: float = 0.001


@PreTrainedConfig.register_subclass("sigma")
@dataclass
class SigmaConfig(PreTrainedConfig):
    """Every field can be set from LeRobot's command line, as ``--policy.n_action_steps=4``.

    Raises :class:`PolicyError` on values that cannot be.
    """

    # The base: `embedded`, a local folder or a Hub id, and the Hub's commit. A copy in another place will do: whatever
    # lies there is compared with the digests of base.json, tensor by tensor.
    base_source: str = "embedded"
    base_revision: str | None = None
    # Control steps executed a decision; it must divide the model's memory_stride.
    n_action_steps: int = 8
    # How much of Sigma's correction is executed; max_scale 0 is π0.5 itself, 1 for both bounds is all of it.
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    # The clamp of sigma.policy.adapter.limits on every action, in the robot's units: limits of each joint, and the
    # greatest change of a target in one control step, of each joint or one for all. All three or none; without them
    # nothing is clamped.
    joint_lower: list[float] | None = None
    joint_upper: list[float] | None = None
    max_step: float | list[float] | None = None
    # Joints in the order of an action; lerobot-rollout gives each its own.
    action_feature_names: list[str] | None = None
    # Sigma reads raw observations and gives raw actions: it normalises by the statistics it was trained with.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_action_steps < 1:
            raise PolicyError(f"n_action_steps: found {self.n_action_steps}; legal: at least 1")
        if any(mode is not NormalizationMode.IDENTITY for mode in self.normalization_mapping.values()):
            raise PolicyError("normalization_mapping: legal: IDENTITY; Sigma normalises by its own statistics")
        given = [value is not None for value in (self.joint_lower, self.joint_upper, self.max_step)]
        if any(given) and not all(given):
            raise PolicyError("joint_lower, joint_upper and max_step: legal: all three, or none of them")
        lower, upper, step = self.limits
        lengths = {len(values) for values in (lower, upper, step) if values.ndim}
        if len(lengths) > 1 or not (lower <= upper).all() or not (step > 0).all():
            raise PolicyError(
                f"joint_lower {self.joint_lower}, joint_upper {self.joint_upper}, max_step {self.max_step}: legal: as "
                "many lower limits as upper ones, none above its upper one, and a positive step, one or as many"
            )

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper joint limits and the greatest step, [D] or one number each; infinite where not given."""
        lower = -np.inf if self.joint_lower is None else self.joint_lower
        upper = np.inf if self.joint_upper is None else self.joint_upper
        step = np.inf if self.max_step is None else self.max_step
        return np.asarray(lower, np.float32), np.asarray(upper, np.float32), np.asarray(step, np.float32)

    def validate_features(self) -> None:
        kinds = [feature.type for feature in (self.input_features or {}).values()]
        if FeatureType.VISUAL not in kinds or not self.robot_state_feature or not self.action_feature:
            raise PolicyError("config.json: input_features and output_features: cameras, observation.state and action")

    # LeRobot's trainer asks for the optimizer before it loads any data: the place to say that it cannot train Sigma.
    def get_optimizer_preset(self) -> None:
        raise PolicyError(f"lerobot-train cannot train the policy type sigma; {TRAINED_BY}")

    def get_scheduler_preset(self) -> None:
        return None

    observation_delta_indices = action_delta_indices = reward_delta_indices = None
