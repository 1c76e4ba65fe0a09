"""A small, coherent set of what the model stages write, for tests of scoring and of the report.

A "true" controller draws sine-like trajectories; the base predicts them with a large error, Sigma's residual removes
``skill`` of that error. Everything else (calibration, heads, pictures) is made by the project's own writers.
"""

import io
from pathlib import Path

import numpy as np

from sigma.data.audit.findings import Finding
from sigma.data.audit.pictures import FRAMES, TRACES
from sigma.policy.adapter.calibration import calibrate, write_calibration
from sigma.policy.adapter.measures import residual_size, telepathy_measures
from sigma.policy.adapter.words import Instructions, normalise_instruction
from sigma.shared.files import write_json, write_table
from sigma.shared.tables import to_table

T, C, D, S, K, E = 8, 4, 3, 4, 2, 3
JOINTS = ["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"]
CAMERAS = ["observation.images.up", "observation.images.wrist"]
TASKS = ["put the cube in the red box", "put the cube in the blue box"]
Q01, Q99 = [-50.0, 0.0, 0.0], [50.0, 90.0, 30.0]


def _jpeg(random: np.random.Generator) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def _windows(episodes: dict[str, int], length: int) -> dict[str, np.ndarray]:
    rows, episode = [], 0
    for split in ("train", "validation", "test"):
        for _ in range(episodes[split]):
            stride = T // 2 if split == "train" else T
            rows += [(episode, step, split) for step in range(0, length - T + 1, stride)]
            episode += 1
    number, step, split = zip(*rows, strict=True)
    return {
        "window": np.arange(len(rows)),
        "episode": np.array(number),
        "step": np.array(step),
        "split": np.array(split),
    }


def write_audit(root: Path, recorded: int, excluded: dict[str, str], jpeg: bytes) -> None:
    """What the audit stage writes: a jump drawn as a trace, a frozen camera with two frames, and a fault without either
    in an episode that is left out."""
    import pyarrow as pa

    findings = [
        Finding(0, "jump", "warn", 0.6, 0.5, 10, 11, JOINTS[1], "observation.state in one step"),
        Finding(1, "frozen_camera", "fail", 6.0, 5.0, 3, 30, CAMERAS[1], "a joint meanwhile covered 90 % of its range"),
        Finding(1, "wrong_type", "fail", 2.0, 1.0, -1, -1, "", "column 'action' is missing"),
    ]
    values = np.sin(np.arange(33) / 6).astype(np.float32)
    trace = {"finding": [0], "joint": [JOINTS[1]], "fps": [10], "state": [values], "action": [values + 0.1]}
    frames = {"finding": [1, 1], "camera": [CAMERAS[1]] * 2, "step": [2, 30], "jpeg": [jpeg] * 2}
    columns = {name: [getattr(one, name) for one in findings] for name in Finding.__dataclass_fields__}
    write_table(root / "data" / "audit.parquet", pa.table(columns, schema=Finding.schema()))
    write_table(root / "data" / "audit_traces.parquet", pa.table(trace, schema=TRACES))
    write_table(root / "data" / "audit_frames.parquet", pa.table(frames, schema=FRAMES))
    used = [episode for episode in range(recorded) if str(episode) not in excluded]
    write_json(root / "data" / "episodes.json", {"used": used, "excluded": excluded})
    counts = {"episodes": recorded, "used": len(used), "excluded": len(excluded), "frames": 33 * recorded, "cameras": 2}
    write_json(root / "metrics" / "audit.json", {**counts, "failures": 0, "warnings": 1, "checks": {"jump": 1}})


def write_predictions(
    root: Path,
    *,
    skill: float = 0.9,
    without_memory: float = 0.5,
    test: int = 24,
    validation: int = 4,
    train: int = 4,
    length: int = 33,
    tasks: tuple[str, ...] = tuple(TASKS),
    same_heads: bool = True,
    control_tau: float = 1.0,
    excluded: dict[str, str] | None = None,
    seed: int = 0,
) -> None:
    """Write ``data/``, ``models/adapter_calibration.json`` and what else the report stage reads under ``root``.

    ``skill`` 1 makes Sigma perfect, 0 the base itself, negative ones worse; ``without_memory`` is its skill with memory
    cleared; ``control_tau`` scales the control pass's factor norms; ``excluded`` are episodes that the audit left out,
    with the reason.
    """
    random = np.random.default_rng(seed)
    columns = _windows({"train": train, "validation": validation, "test": test}, length)
    windows, episodes = len(columns["window"]), columns["episode"]
    time = (columns["step"][:, None] + np.arange(T))[..., None]
    phase = random.uniform(0, 2 * np.pi, (episodes.max() + 1, 1, D))[episodes]
    action = (0.8 * np.sin(time / 6.0 + phase)).astype(np.float32)
    hold = (0.8 * np.sin((time[:, 0] - 1) / 6.0 + phase[:, 0])).astype(np.float32)
    error = random.normal(0.2, 0.2, (windows, 1, D)) + random.normal(0, 0.1, (windows, T, D))
    base_action = (action + error).astype(np.float32)
    noise = random.normal(0, 0.02, error.shape)
    residual, cleared = ((noise - share * error).astype(np.float32) for share in (skill, without_memory))
    task = np.array([tasks[episode % len(tasks)] for episode in episodes])
    baseline = columns | {
        "task": task,
        "kept": random.random(windows) > 0.2,
        "strided": columns["step"] % T == 0,
        "action": action,
        "valid": np.ones((windows, T), dtype=bool),
        "hold": hold,
        "base_action": base_action,
        "base_zero_noise": base_action,
        "base_samples": (base_action[:, None] + random.normal(0, 0.2, (windows, S, T, D))).astype(np.float32),
    }
    texts = random.normal(size=(len(tasks), 8))
    write_audit(root, int(episodes.max()) + 1 + len(excluded or {}), excluded or {}, _jpeg(np.random.default_rng(seed)))
    known = columns["split"] == "validation"
    tau = random.normal(0, 1, (windows, K, E)).astype(np.float32)
    tau_l2 = np.linalg.norm(tau.reshape(windows, -1), axis=1).astype(np.float32)
    align = random.uniform(0.4, 0.6, windows).astype(np.float32)
    sigma = {name: columns[name] for name in ("window", "episode", "step", "split")} | {
        "base_action": base_action,
        "sigma_action": base_action + residual,
        "cleared_action": base_action + cleared,
        "tau": tau,
        "tau_l2": tau_l2,
        "sem_align": align,
        "control_tau_l2": tau_l2 * np.float32(control_tau),
        "control_sem_align": align,
    }
    centre = float(np.median(tau_l2[known]))
    scores = telepathy_measures(tau, align, centre)
    scores["agreement"] = random.uniform(0, 1, windows)
    parts = {term: random.uniform(0, 1, (windows, 2)) for term in ("picture", "change", "state", "tracking")}
    words = Instructions(list(map(normalise_instruction, tasks)), [], texts, np.empty((0, 8)))
    calibration = calibrate(
        parts={term: values[known] for term, values in parts.items()},
        scores={**{term: values[known] for term, values in scores.items()}, "size": residual_size(residual[known])},
        tau_centre=centre,
        reference={"views_mean": np.zeros((2, 3)), "state_mean": np.zeros(D), "motion_mean": np.zeros((0, D))},
        instructions=words,
        texts=(list(tasks), []),
        episodes=episodes[known],
    )
    told = {term: np.zeros(windows) for term in ("meaning", "wording")}
    sigma |= {f"gate_{term}": score for term, score in {**calibration.scores(parts), **scores, **told}.items()}
    pictures = [
        (int(row), camera, _jpeg(random)) for row in np.flatnonzero(columns["split"] != "train") for camera in CAMERAS
    ]
    window, camera, jpeg = zip(*pictures, strict=True)
    folder = root / "data" / "predictions"
    write_table(folder / "baseline.parquet", to_table(baseline))
    write_table(folder / "sigma.parquet", to_table(sigma))
    frames = {"window": np.array(window), "camera": np.array(camera), "jpeg": np.array(jpeg, dtype=object)}
    write_table(folder / "frames.parquet", to_table(frames))
    heads = {"digest": "a" * 64, "tensors": 12, "mean": 0.001, "std": 0.1, "rms": 0.1}
    write_json(
        folder / "heads.json", {"control": heads, "sigma": heads if same_heads else {**heads, "digest": "b" * 64}}
    )
    write_calibration(root / "models" / "adapter_calibration.json", calibration, root / "models" / "sigma")
    quantiles = {"q01": Q01, "q99": Q99, "eps": 1e-8}
    write_json(
        root / "data" / "features" / "meta.json",
        {
            "base_digest": "c" * 64,
            "normalisation": {"action": quantiles, "observation.state": quantiles},
            "statistics": "checkpoint",
            "action": "zero_noise",
            "samples": S,
            "seed": 0,
            "num_steps": 5,
        },
    )
    write_json(
        root / "data" / "shards" / "meta.json",
        {
            "format_version": 3,
            "horizon": T,
            "chunk": C,
            "fps": 10,
            "cameras": CAMERAS,
            "joint_names": JOINTS,
            "exclude_joints": [],
            "critical_joints": [JOINTS[2]],
            "tasks": list(tasks),
            "dataset": {"source": "embedded", "revision": None, "digest": "d" * 64, "further": []},
        },
    )
    write_json(root / "data" / "base.json", {"source": "embedded", "revision": None, "digest": "c" * 64, "tensors": {}})
