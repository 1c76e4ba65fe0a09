"""The section ``rollout`` of a parameter file, and a harder setting of an episode.

Loads neither MuJoCo nor torch.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from sigma.parameters import read_sections
from sigma.parameters.schema import Section

TARGET = "pick_place"  # the task that Sigma learns
PLAIN_NAME = "plain"
SettingName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]*$")]


class Setting(Section):
    """How an episode differs from the plain one; each field is off by default and changes only what it names.

    Attributes:
        action_noise: standard deviation of white noise on each executed joint target, normalised units.
        push: horizontal velocity that the cube is given once, metres a second, at a drawn step in a drawn direction.
        camera_metres: the camera ``up`` stands this far from its place, in a drawn direction.
        camera_degrees: the same camera is turned by this angle about a drawn axis.
        wording: one of the wordings that recordings use is drawn, or of those that are kept for tests, or it is the
            canonical one.
        cue_delay: seconds from when a light goes off to when the cube comes, instead of a draw from 1 to 8.
        delay: control steps from an observation to the first action that its plan decides.
        stalled: the robot stays where it is for the control step in which a plan is made, as in LeRobot's synchronous
            loop; the plan's own first step is lost.
        n_action_steps: control steps executed a decision, instead of the number of the section.
    """

    action_noise: float = Field(default=0.0, ge=0, le=100)
    push: float = Field(default=0.0, ge=0, le=10)
    camera_metres: float = Field(default=0.0, ge=0, le=1)
    camera_degrees: float = Field(default=0.0, ge=0, le=90)
    wording: Literal["recorded", "held_out", "canonical"] = "recorded"
    cue_delay: float | None = Field(default=None, ge=0, le=60)
    delay: int = Field(default=0, ge=0, le=1024)
    stalled: bool = False
    n_action_steps: int | None = Field(default=None, ge=1, le=1024)


PLAIN = Setting()


class RolloutParameters(Section):
    target: str
    episodes: int = Field(ge=1, le=100_000)
    base_tasks: list[str]
    base_episodes: int = Field(ge=1, le=100_000)
    first_seed: int = Field(ge=0, le=1_000_000_000)
    n_action_steps: int = Field(ge=1, le=1024)
    batch: int = Field(ge=1, le=1024)
    settings_episodes: int = Field(ge=1, le=100_000)
    settings: dict[SettingName, Setting]
    videos: int = Field(ge=0, le=100)
    video_size: int = Field(ge=32, le=1024, multiple_of=2)

    @field_validator("settings")
    @classmethod
    def _plain_is_taken(cls, settings: dict[str, Setting]) -> dict[str, Setting]:
        if PLAIN_NAME in settings:
            raise ValueError(f"{PLAIN_NAME!r} names the undisturbed episodes")
        return settings

    @model_validator(mode="after")
    def _tasks_differ(self) -> "RolloutParameters":
        if len({self.target, *self.base_tasks}) <= len(self.base_tasks):
            raise ValueError("target and base_tasks must all be different")
        return self


class AblationParameters(Section):
    """Read by dvc.yaml alone."""

    seed: int = Field(ge=0)


class RolloutFile(Section):
    rollout: RolloutParameters
    ablation: AblationParameters


def read_rollout(path: Path) -> RolloutParameters:
    """The section ``rollout`` of a parameter file; the whole file is checked."""
    return read_sections(RolloutFile, path).rollout
