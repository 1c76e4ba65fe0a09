"""Which figures there are: what each compares, in what unit, and what it should reach.

This module loads nothing, so that a misspelt name is told at once.
"""

from dataclasses import dataclass
from typing import Any, Literal

LEROBOT_LOADER = "LeRobotDataset in a torch DataLoader, its faster video backend"
LEROBOT_STEP = "plain LoRA of the same rank and layers, a step of LeRobot's update_policy"


@dataclass(frozen=True)
class Target:
    """What a figure should reach: at least or at most ``value``, of the ``ratio``'s median or of our ``own`` one."""

    bound: Literal["at_least", "at_most"]
    value: float
    of: Literal["ratio", "own"] = "ratio"

    def met(self, value: float) -> bool:
        return value >= self.value if self.bound == "at_least" else value <= self.value

    def to_json(self) -> dict[str, Any]:
        return {self.bound: self.value, "of": self.of}


@dataclass(frozen=True)
class Figure:
    """A comparison: the stage that measures it, its title, the peer's name, the unit of both values, and the target
    where one is set."""

    part: str
    title: str
    peer: str
    unit: str
    target: Target | None = None


CATALOGUE: dict[str, Figure] = {
    "loading": Figure(
        "loading",
        "windows into training, the same number of loader processes",
        LEROBOT_LOADER,
        "windows/s",
        Target("at_least", 20),
    ),
    "loading_in_process": Figure(
        "loading",
        "windows into training, no loader process, as Sigma trains",
        LEROBOT_LOADER,
        "windows/s",
        Target("at_least", 20),
    ),
    "loading_of_memory_copy": Figure(
        "loading",
        "windows into training, as a share of a plain memory copy",
        "copy of the same bytes in memory",
        "GiB/s",
    ),
    "windowing": Figure(
        "windowing",
        "video to shards, as a share of the decode limit",
        "every video file decoded once from its first frame to its last, nothing kept or converted",
        "video frames/s",
        Target("at_least", 0.7),
    ),
    "windowing_of_wanted_frames": Figure(
        "windowing",
        "video to shards, as a share of delivering its images",
        "the frames that shards store, episode by episode, by the same decoder, converted and thrown away",
        "video frames/s",
    ),
    "windowing_memory": Figure(
        "windowing",
        "peak memory of the window stage with the most episodes",
        "the same stage with the episodes once",
        "MiB",
        Target("at_most", 1.1),
    ),
    "statistics": Figure(
        "statistics",
        "statistics of state and action, exact quantiles",
        "LeRobot's compute_episode_stats and aggregate_stats",
        "s",
    ),
    "training_step_flow": Figure("training", "a step of Sigma's flow phase", LEROBOT_STEP, "s", Target("at_most", 0.8)),
    "training_step_flow_one_draw": Figure(
        "training", "the same with one noise draw a window, as LeRobot has", LEROBOT_STEP, "s"
    ),
    "training_step_residual": Figure(
        "training", "a step of Sigma's residual phase", LEROBOT_STEP, "s", Target("at_most", 0.8)
    ),
    "training_step_frozen_branch": Figure(
        "training",
        "a step with the frozen branch: LoRA and heads, no expert pass",
        LEROBOT_STEP,
        "s",
        Target("at_most", 0.8),
    ),
    "training_step_compiled": Figure(
        "training", "a step of Sigma's flow phase with machine.compile", "the same step without it", "s"
    ),
    "training_step_autocast": Figure(
        "training", "a step of Sigma's flow phase with train.autocast", "the same step without it", "s"
    ),
    "decision": Figure(
        "decision",
        "a decision of Sigma",
        "a decision of the frozen base and one more pass of its prefix",
        "s",
        Target("at_most", 1.05),
    ),
    "decision_frozen_branch": Figure(
        "decision",
        "a decision of Sigma with the frozen branch",
        "a decision of the frozen base and one more pass of its prefix",
        "s",
        Target("at_most", 1.05),
    ),
    "decision_against_base": Figure("decision", "a decision of Sigma", "a decision of the frozen base", "s"),
    "decision_against_plain_lora": Figure(
        "decision", "a decision of Sigma", "a decision of the base under plain LoRA", "s"
    ),
    "decision_late_layers": Figure(
        "decision",
        "a decision of Sigma with the frozen branch, adapters in late layers alone",
        "a decision of the frozen base",
        "s",
    ),
    "evaluation_base": Figure(
        "evaluation",
        "evaluation of the frozen base, all samples",
        "PI05Policy.predict_action_chunk, window by window, the draws of a window as one batch",
        "windows/s",
        Target("at_least", 4),
    ),
    "evaluation_base_by_draw": Figure(
        "evaluation",
        "evaluation of the frozen base, all samples",
        "PI05Policy.predict_action_chunk, window by window and draw by draw",
        "windows/s",
        Target("at_least", 4),
    ),
    "evaluation_sigma": Figure(
        "evaluation",
        "evaluation of Sigma and of the frozen base that it corrects",
        "SigmaPolicy.predict_action_chunk, window by window",
        "windows/s",
    ),
    "evaluation_sigma_cached": Figure(
        "evaluation",
        "evaluation of Sigma on what the baseline stage keeps",
        "SigmaPolicy.predict_action_chunk, window by window",
        "windows/s",
    ),
    "help": Figure("startup", "sigma --help", "python -c 'import typer'", "s", Target("at_most", 1.5)),
    "repro": Figure(
        "startup",
        "dvc repro with nothing to do",
        "dvc root, which opens the project and ends",
        "s",
        Target("at_most", 5, "own"),
    ),
    "adapter_experiment": Figure(
        "startup",
        "an experiment that changes only the adapter",
        "sigma report by itself, the one stage that it runs",
        "s",
        Target("at_most", 15, "own"),
    ),
}

PARTS: tuple[str, ...] = tuple(dict.fromkeys(figure.part for figure in CATALOGUE.values()))


def figures_of(part: str) -> list[str]:
    """Names of a part's figures, in the catalogue's order."""
    return [name for name, figure in CATALOGUE.items() if figure.part == part]
