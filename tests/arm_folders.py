"""Made-up arm folders on the windows of :mod:`tests.predictions`, for tests of everything that reads arms.

An arm executes the recorded action plus an error of a given size; the error has a share common to a window, one of its
training seed and one of each action, so that seeds, windows and episodes all differ.
"""

from pathlib import Path

import numpy as np

from sigma.shared.files import digest_file, digest_folder, read_table, write_json, write_table
from sigma.shared.tables import from_table, to_table
from tests.predictions import C

# Row -> size of its error, for one arm each.
VARIANTS = {
    "sigma": {"sigma": 0.10, "sigma_full_scale": 0.10},
    "plain_lora": {"plain_lora_sample": 0.20, "plain_lora_zero_noise": 0.16, "plain_lora_mean": 0.15},
    "told_motion": {"told_motion": 0.13, "told_motion_full_scale": 0.13},
    "tau_constant": {"tau_constant": 0.12, "tau_constant_full_scale": 0.12},
}


def held_out(root: Path) -> dict[str, np.ndarray]:
    """Columns of the validation and test windows of ``root``'s baseline table."""
    columns = from_table(read_table(root / "data/predictions/baseline.parquet"))
    return {name: values[columns["split"] != "train"] for name, values in columns.items()}


def write_arm(root: Path, arm: str, seed: int, variants: dict[str, float] | None = None, **record) -> Path:
    """Write ``stages/ablation/out/ARM-SEED`` under ``root`` for the windows of ``data/``; returns the folder."""
    windows = held_out(root)
    action = windows["action"].astype(np.float64)
    columns = {name: windows[name] for name in ("window", "episode", "step", "split", "task")}
    for index, (name, size) in enumerate((variants or VARIANTS[arm]).items()):
        draw = np.random.default_rng([seed, index, len(arm), *arm.encode()])
        common = np.random.default_rng(17).normal(0, 0.6, (len(action), 1, action.shape[2]))
        for branch, steps in (("vector", 1), ("chunk", C), ("trajectory", action.shape[1])):
            error = common + draw.normal(0, 0.8, action[:, :steps].shape)
            columns[f"{name}.{branch}"] = (action[:, :steps] + size * error).astype(np.float32)
    folder = root / "stages/ablation/out" / f"{arm}-{seed}"
    write_table(folder / "predictions.parquet", to_table(columns))
    steps = np.arange(0, 101, 10)
    falling = 0.3 + np.exp(-steps / 20)
    curve = {"step": steps, "train": falling, "validation": falling + 0.01 * seed}
    write_table(folder / "curves.parquet", to_table(curve))
    write_json(
        folder / "arm.json",
        {
            "arm": arm,
            "seed": seed,
            "kind": "lora" if arm == "plain_lora" else "sigma",
            "validation": 0.1,
            "selected_step": 80 + seed,
            "steps": 100,
            "trained_parameters": 1000,
            "shards_digest": digest_file(root / "data/shards/meta.json"),
            "features_digest": digest_folder(root / "data/features"),
            "variants": list(variants or VARIANTS[arm]),
            **record,
        },
    )
    return folder


def write_arms(root: Path, seeds: tuple[int, ...] = (0, 1), arms: tuple[str, ...] = tuple(VARIANTS)) -> None:
    """Write every arm of :data:`VARIANTS` for these seeds, and the parameters that list them."""
    for arm in arms:
        for seed in seeds:
            write_arm(root, arm, seed)
    write_parameters(root, seeds, arms)


def write_parameters(root: Path, seeds: tuple[int, ...], arms: tuple[str, ...]) -> Path:
    """``stages/ablation/params.yaml`` under ``root``."""
    path = root / "stages/ablation/params.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = f"[{', '.join(arms)}]"
    text = f"ablation:\n  seeds: {list(seeds)}\n  trained: {names}\n  tuned: {names}\n"
    text += "  trials: {seed: 100, rates: [1.0]}\n  arms:\n"
    text += "".join(f"    {arm}: {{kind: sigma, rate_of: {arm}, overrides: {{}}}}\n" for arm in arms)
    path.write_text(text)
    return path
