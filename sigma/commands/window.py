"""Cut episodes into windows, split them by episode, and write the shards that every later stage reads."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sigma.parameters import Section

DATASET, DATASET_RECORD, BASE_RECORD = Path("data/dataset"), Path("data/dataset.json"), Path("data/base.json")
EPISODES, SHARDS, METRICS = Path("data/episodes.json"), Path("data/shards"), Path("metrics/window.json")


def _count_or_fraction(value: Any) -> Any:
    whole, part = type(value) is int and value >= 0, type(value) is float and 0 < value < 1
    if not (whole or part):
        raise ValueError("must be a count of episodes or a fraction of them")
    return value


# Told apart here, as a union names neither the key nor the range.
Episodes = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)], BeforeValidator(_count_or_fraction)
]


class WindowParameters(Section):
    horizon: int = Field(ge=1, le=1024)
    chunk: int = Field(ge=1, le=1024)
    history: int = Field(ge=1, le=64)
    train_stride: int = Field(ge=1, le=1024)
    eval_stride: int = Field(ge=1, le=1024)
    history_stride: int = Field(ge=1, le=1024)
    trace: int = Field(ge=0, le=1024)
    min_action_norm: float = Field(ge=0)
    min_motion: float = Field(ge=0)
    validation: Episodes
    test: Episodes
    seed: int = Field(ge=0, lt=2**63)
    cameras: dict[str, str | None]
    exclude_joints: tuple[str, ...] = Field(strict=False)
    shard_mib: int = Field(ge=1, le=65536)

    @field_validator("chunk")
    @classmethod
    def _chunk_within_horizon(cls, chunk: int, info: ValidationInfo) -> int:
        if chunk > info.data.get("horizon", chunk):
            raise ValueError(f"the chunk must not be longer than window.horizon ({info.data['horizon']})")
        return chunk

    @field_validator("train_stride", "eval_stride")
    @classmethod
    def _strides_fit_horizon(cls, stride: int, info: ValidationInfo) -> int:
        horizon = info.data.get("horizon", stride)
        if horizon % stride and (info.field_name == "train_stride" or stride % horizon):
            also = "" if info.field_name == "train_stride" else " or a multiple of it"
            raise ValueError(f"must divide window.horizon ({horizon}){also}")
        return stride

    @field_validator("history_stride")
    @classmethod
    def _history_on_decisions(cls, stride: int, info: ValidationInfo) -> int:
        if stride % info.data.get("train_stride", stride):
            raise ValueError(
                f"must be a multiple of window.train_stride ({info.data['train_stride']}): history is made of decisions"
            )
        return stride


SECTIONS: dict[str, type[Section]] = {"window": WindowParameters}


def _choose_cameras(base: dict[str, Any], available: list[str], mapping: dict[str, str | None]) -> dict[str, str]:
    """Base camera → dataset camera, in the base's order; a base camera mapped to null is left out."""
    from sigma.errors import SigmaError

    unknown = sorted(set(mapping) - set(base["cameras"]))
    if unknown:
        raise SigmaError(
            f"params.yaml: window.cameras.{unknown[0]}: no camera of the base; legal: {', '.join(base['cameras'])}"
        )
    chosen = {}
    for camera in base["cameras"]:
        found = mapping.get(camera, camera)
        if found is None:
            continue
        if found not in available:
            raise SigmaError(
                f"params.yaml: window.cameras.{camera}: the base needs this camera and the dataset has no {found!r}; "
                f"legal: null (left out), {', '.join(available)}"
            )
        chosen[camera] = found
    if not chosen:
        raise SigmaError("params.yaml: window.cameras: every camera of the base is left out; keep one")
    return chosen


def _check_base(section: WindowParameters, base: dict[str, Any], joints: int) -> None:
    from sigma.errors import SigmaError

    if section.horizon > base["chunk_size"]:
        raise SigmaError(
            f"params.yaml: window.horizon: {section.horizon} steps, but the base predicts {base['chunk_size']}; "
            f"legal: 1 to {base['chunk_size']}"
        )
    for key in ("action_dim", "state_dim"):
        if joints > base[key]:
            raise SigmaError(f"{DATASET}: {joints} joints, but the base takes at most {base[key]} ({key})")


def run(parameters: dict[str, Section]) -> str:
    """Write ``data/shards/`` and ``metrics/window.json``; returns the line to print."""
    from sigma import records
    from sigma.data.packing import View, write_shards
    from sigma.data.segment import Filter, candidate_windows, count_windows, first_tasks, train_statistics
    from sigma.data.source import open_dataset
    from sigma.data.split import split_episodes
    from sigma.data.statistics import refuse_constant_joints
    from sigma.data.windows import Protocol
    from sigma.errors import SigmaError
    from sigma.io import digest_folder, write_json
    from sigma.jobs import Workers

    section: WindowParameters = parameters["window"]
    dataset, base = open_dataset(DATASET), records.read_record(BASE_RECORD, records.BASE)
    record = records.read_record(DATASET_RECORD, records.ORIGIN)
    if digest_folder(DATASET) != record["digest"]:
        raise SigmaError(
            f"{DATASET}: its content is not what {DATASET_RECORD} names; run the fetch stage again (dvc repro)"
        )
    _check_base(section, base, len(dataset.joint_names))
    cameras = _choose_cameras(base, list(dataset.cameras), section.cameras)
    episodes = records.read_record(EPISODES, records.EPISODES)
    used, excluded = episodes["used"], len(episodes["excluded"])
    for episode in used:
        if not 0 <= episode < len(dataset.episodes):
            raise SigmaError(
                f"{EPISODES}: used: no episode {episode} in {DATASET}; run the audit stage again (dvc repro)"
            )

    splits = split_episodes(first_tasks(dataset, used), section.validation, section.test, section.seed)
    statistics = train_statistics(dataset, splits["train"])
    refuse_constant_joints(statistics, dataset.joint_names, section.exclude_joints)
    protocol = Protocol(
        horizon=section.horizon,
        chunk_size=base["chunk_size"],
        history=section.history,
        history_stride=section.history_stride,
        train_stride=section.train_stride,
        eval_stride=section.eval_stride,
        trace=section.trace,
    )
    limits = Filter(section.min_action_norm, section.min_motion)
    windows = candidate_windows(dataset, splits, protocol, limits, statistics)
    meta = {
        "horizon": section.horizon,
        "chunk": section.chunk,
        "chunk_size": base["chunk_size"],
        "history": section.history,
        "history_stride": section.history_stride,
        "trace": section.trace,
        "train_stride": section.train_stride,
        "eval_stride": section.eval_stride,
        "fps": dataset.fps,
        "cameras": list(cameras),
        "dataset_cameras": list(cameras.values()),
        "resolution": base["resolution"],
        "joint_names": list(dataset.joint_names),
        "exclude_joints": list(section.exclude_joints),
        "tasks": list(dataset.tasks),
        "statistics": statistics,
        "splits": splits,
        "counts": count_windows(windows),
        "dataset": {key: record[key] for key in ("source", "revision", "digest")},
    }
    view = View(tuple(cameras.values()), base["resolution"])
    shards = write_shards(
        SHARDS, dataset, view, protocol, windows, meta, section.shard_mib * 2**20, Workers.of(parameters["machine"])
    )
    counts, frames = meta["counts"], sum(shard["frames"] for shard in shards)
    split = {name: len(members) for name, members in splits.items()}
    recorded = {"recorded": len(dataset.episodes), "excluded": excluded}
    write_json(METRICS, {"episodes": recorded | split, "windows": counts, "frames": frames})
    kept = ", ".join(f"{name} {counts[name]['kept']} of {counts[name]['candidates']}" for name in counts)
    strided = sum(one["strided"] for one in counts.values())
    kept += f" windows; {strided} without overlap"
    left_out = f"{excluded} of {len(dataset.episodes)} episodes excluded by the audit"
    return f"window: kept {kept}; {frames} frames in {len(shards)} shards; {left_out}"
