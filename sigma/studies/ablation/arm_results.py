"""The arms of the ablation: which of them the verdict is about, and what one training left in its folder.

A *row* of the results is a variant of a trained arm (its executed actions on the held-out windows) or an untrained
reference. Legend: W held-out windows, T horizon, C chunk, A action dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.evaluation.scores import Arm, span_arm
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json
from sigma.shared.spans import SPANS, span_steps
from sigma.shared.tables import read_columns

# Confirmatory arms, named before any of them was trained: the verdict is about these rows. The second half of a row's
# name is how plain LoRA turns its samples into one action; its best decoding is the opponent.
CONFIRMATORY = {
    "sigma": ("sigma",),
    "sigma_frozen": ("sigma_frozen",),
    "plain_lora": ("plain_lora_sample", "plain_lora_zero_noise", "plain_lora_mean"),
    "residual_mlp": ("residual_mlp",),
    "direct": ("direct",),
}
# Branches of Sigma itself; each is a row, none is another method's.
OWN = ("sigma", "sigma_frozen")
TITLES = {
    "sigma": "Sigma, adapted branch",
    "sigma_frozen": "Sigma, frozen branch",
    "plain_lora": "plain LoRA",
    "plain_lora_sample": "plain LoRA, one sample",
    "plain_lora_zero_noise": "plain LoRA, zero noise",
    "plain_lora_mean": "plain LoRA, mean of samples",
    "residual_mlp": "residual MLP",
    "direct": "direct regressor",
    "sigma_without_residual": "Sigma without residual heads",
    "without_lora": "heads without LoRA",
    "tau_constant": "τ a learned constant (retrained)",
    "tau_mean": "τ replaced by its train mean",
    "tau_shuffled": "τ shuffled across episodes",
    "memory_reset": "memory reset at each decision",
    "without_film": "without FiLM",
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
    # names that only the closed loop uses
    "base": "frozen π0.5",
    "expert": "scripted expert",
}
FULL_SCALE = "_full_scale"
JOINED = ("window", "episode", "step", "split", "task")
CURVES = ("phase", "step", "train", "validation")
RECORD = ("arm", "seed", "steps", "selected_step", "trained_parameters", "shards_digest", "features_digest", "variants")


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


def source_digests(shards: Path, features: Path) -> dict[str, str]:
    """What an arm's record has to agree with: digests of ``data/shards/meta.json`` and of the folder ``features``."""
    return {"shards_digest": digest_file(shards), "features_digest": digest_folder(features)}


@dataclass(frozen=True)
class ArmSeed:
    """One training of one arm, read back."""

    arm: str
    seed: int
    record: dict[str, Any]
    variants: dict[str, Arm]  # row -> metric -> executed actions [W, n, A]
    curves: dict[str, np.ndarray]  # columns of curves.parquet


def read_arm(
    folder: Path, arm: str, seed: int, *, digests: Mapping[str, str], held_out: Mapping[str, np.ndarray], chunk: int
) -> ArmSeed:
    """Read ``folder`` and hold it against the windows of this run.

    ``digests`` is :func:`source_digests`'s, ``held_out`` the baseline table's columns of the validation and test
    windows with ``action [W, T, A]``. Raises :class:`SigmaError`, naming the folder, where it is missing or incomplete,
    belongs to another arm or seed, or was trained or scored on other windows.
    """
    if not (folder / "arm.json").is_file():
        raise SigmaError(f"{folder}: arm {arm} of seed {seed} is missing; run `dvc repro stages/ablation/dvc.yaml`")
    record = read_json(folder / "arm.json")
    for key in RECORD:
        if key not in record:
            raise SigmaError(f"{folder}/arm.json: key {key!r} is missing; train the arm again")
    if (record["arm"], record["seed"]) != (arm, seed):
        raise SigmaError(f"{folder}/arm.json: found arm {record['arm']} of seed {record['seed']}; legal: {arm}, {seed}")
    for key, digest in digests.items():
        if record[key] != digest:
            raise SigmaError(
                f"{folder}/arm.json: {key}: found {str(record[key])[:12]}, data/ has {digest[:12]}: trained on other "
                "windows; run `dvc repro stages/ablation/dvc.yaml`"
            )
    path = folder / "predictions.parquet"
    names = [f"{variant}.{span}" for variant in record["variants"] for span in SPANS]
    columns, _ = read_columns(path, (*JOINED, *names))
    for name in JOINED:
        if not np.array_equal(columns[name], held_out[name]):
            raise SigmaError(f"{path}: column {name!r} is not that of this run's validation and test windows")
    windows, horizon, joints = held_out["action"].shape
    steps = span_steps(chunk, horizon)
    for name in names:
        shape = (windows, steps[name.rsplit(".", 1)[1]], joints)
        if columns[name].shape != shape:
            raise SigmaError(f"{path}: column {name!r} has shape {columns[name].shape}, {shape} is needed")
        if not np.isfinite(columns[name]).all():
            raise SigmaError(f"{path}: column {name!r} holds a value that is not finite; legal: finite numbers")
    curves, _ = read_columns(folder / "curves.parquet", CURVES)
    variants = {
        variant: span_arm({span: columns[f"{variant}.{span}"] for span in SPANS}) for variant in record["variants"]
    }
    return ArmSeed(arm, seed, record, variants, curves)


def refuse_unlisted(root: Path, arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise :class:`SigmaError` for an arm folder under ``root`` that the parameters do not list: its row would be
    dropped in silence."""
    listed = {f"{arm}-{seed}" for arm in arms for seed in seeds}
    for file in sorted(root.glob("*/arm.json")):
        if file.parent.name not in listed:
            raise SigmaError(
                f"{file.parent}: an arm or seed that the parameters do not list; legal: {', '.join(arms)} of seeds "
                f"{', '.join(map(str, seeds))}; remove the folder or list it"
            )
