"""The arms of the ablation: which of them the claims are about, and what one training left in its folder.

A *row* of the results is a variant of a trained arm (its executed actions on the held-out windows) or an untrained
reference. Legend: W held-out windows, T horizon, C chunk, A action dim.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.evaluation.scores import Arm, span_arm
from sigma.shared.errors import SigmaError
from sigma.shared.spans import SPANS, span_steps
from sigma.shared.tables import read_columns
from sigma.studies import arm_folder
from sigma.studies.arm_folder import read_arm_record

SUBJECT = "sigma"  # the row that every other one is compared with
# Confirmatory arms, named before any of them was trained: the claims are about these rows. The second half of a row's
# name is how plain LoRA turns its samples into one action; its best decoding is the opponent.
CONFIRMATORY = {
    "sigma": ("sigma",),
    "plain_lora": ("plain_lora_sample", "plain_lora_zero_noise", "plain_lora_mean"),
    "told_motion": ("told_motion",),
}
TITLES = {
    "sigma": "Sigma",
    "plain_lora": "plain LoRA",
    "plain_lora_sample": "plain LoRA, one sample",
    "plain_lora_zero_noise": "plain LoRA, zero noise",
    "plain_lora_mean": "plain LoRA, mean of samples",
    "told_motion": "told the motion alone",
    "memory_cleared": "memory cleared (retrained)",
    "without_film": "without FiLM",
    "without_condition": "without the condition's branch",
    "without_vector": "without the vector branch",
    "without_chunk": "without the chunk branch",
    "without_trajectory": "without the trajectory branch",
    "tau_constant": "τ a learned constant (retrained)",
    "without_recall": "without recall",
    "without_traf": "without TRAF",
    "without_tsac": "without TSAC",
    "full_finetune": "full fine-tuning",
    "full_finetune_sample": "full fine-tuning, one sample",
    "full_finetune_zero_noise": "full fine-tuning, zero noise",
    "full_finetune_mean": "full fine-tuning, mean of samples",
    "frozen_base": "frozen π0.5",
    "base_mean_of_samples": "π0.5, mean of samples",
    "hold_state": "hold state",
    "mean_trajectory": "mean trajectory",
}
FULL_SCALE = f"_{arm_folder.FULL_SCALE}"
JOINED = ("window", "episode", "step", "split", "task")


def title(row: str) -> str:
    """A row's name in words."""
    if row.endswith(FULL_SCALE):
        return f"{title(row.removesuffix(FULL_SCALE))}, scale 1"
    return TITLES.get(row, row.replace("_", " "))


def place(row: str) -> tuple[int, str]:
    """Where a row stands in a table: in the order of :data:`TITLES`, a scale-1 row after its arm, others last."""
    names = list(TITLES)
    arm = row.removesuffix(FULL_SCALE)
    return (names.index(arm) if arm in names else len(names), row)


def is_confirmatory(row: str) -> bool:
    return any(row in rows for rows in CONFIRMATORY.values())


@dataclass(frozen=True)
class ArmSeed:
    """One training of one arm, read back."""

    record: dict[str, Any]
    variants: dict[str, Arm]  # row -> metric -> executed actions [W, n, A]
    curves: dict[str, np.ndarray]  # columns of curves.parquet


def read_arm(
    root: Path, arm: str, seed: int, *, digests: Mapping[str, str], held_out: Mapping[str, np.ndarray], chunk: int
) -> ArmSeed:
    """Read the folder ARM-SEED of ``root`` and hold it against the windows of this run.

    ``digests`` are those of the arm's data, ``held_out`` the baseline table's columns of the validation and test
    windows with ``action [W, T, A]``. Raises :class:`SigmaError`, naming the folder, where it is missing or incomplete,
    belongs to another arm or seed, or was trained or scored on other windows.
    """
    folder = root / f"{arm}-{seed}"
    record = read_arm_record(folder, digests)
    if (record["arm"], record["seed"]) != (arm, seed):
        raise SigmaError(f"{folder}/arm.json: found arm {record['arm']} of seed {record['seed']}; legal: {arm}, {seed}")
    path = folder / arm_folder.PREDICTIONS
    names = {f"{variant}.{span}": span for variant in record["variants"] for span in SPANS}
    columns, _ = read_columns(path, (*JOINED, *names))
    for name in JOINED:
        if not np.array_equal(columns[name], held_out[name]):
            raise SigmaError(f"{path}: column {name!r} is not that of this run's validation and test windows")
    windows, horizon, joints = held_out["action"].shape
    steps = span_steps(chunk, horizon)
    for name, span in names.items():
        shape = (windows, steps[span], joints)
        if columns[name].shape != shape:
            raise SigmaError(f"{path}: column {name!r} has shape {columns[name].shape}, {shape} is needed")
        if not np.isfinite(columns[name]).all():
            raise SigmaError(f"{path}: column {name!r} holds a value that is not finite; legal: finite numbers")
    curves, _ = read_columns(folder / arm_folder.CURVES, ("step", "train", "validation"))
    variants = {name: span_arm({span: columns[f"{name}.{span}"] for span in SPANS}) for name in record["variants"]}
    return ArmSeed(record, variants, curves)


def refuse_unlisted(root: Path, arms: Iterable[str], seeds: Iterable[int]) -> None:
    """Raise :class:`SigmaError` for an arm folder under ``root`` that the parameters do not list: its row would be
    dropped in silence."""
    listed = {f"{arm}-{seed}" for arm in arms for seed in seeds}
    for file in sorted(root.glob(f"*/{arm_folder.RECORD}")):
        if file.parent.name not in listed:
            raise SigmaError(
                f"{file.parent}: an arm or seed that the parameters do not list; legal: {', '.join(arms)} of seeds "
                f"{', '.join(map(str, seeds))}; remove the folder or list it"
            )
