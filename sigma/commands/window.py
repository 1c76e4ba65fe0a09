"""Cut episodes into windows, split them by episode, and write the shards that every later stage reads."""

from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from sigma.parameters import Parameters
from sigma.parameters.window import WindowParameters

DATASET, DATASET_RECORD, BASE_RECORD = Path("data/dataset"), Path("data/dataset.json"), Path("data/base.json")
EPISODES, SHARDS, METRICS = Path("data/episodes.json"), Path("data/shards"), Path("metrics/window.json")


def _critical_joints(joints: Sequence[str], section: WindowParameters) -> list[str]:
    """The joints that ``window.critical_joints`` names, in any case of letters, without those that are not scored."""
    return [
        joint
        for joint in joints
        if joint not in section.exclude_joints
        and any(fnmatchcase(joint.lower(), pattern.lower()) for pattern in section.critical_joints)
    ]


def run(parameters: Parameters) -> str:
    """Write ``data/shards/`` and ``metrics/window.json``; returns the line to print."""
    from sigma.compute.workers import Workers
    from sigma.data.dataset.dataset import open_dataset
    from sigma.data.dataset.fit import check_fit, choose_cameras
    from sigma.data.dataset.joining import further_episodes
    from sigma.data.dataset.statistics import refuse_constant_joints
    from sigma.data.windows.candidates import Filter, candidate_windows, count_windows, first_tasks, train_statistics
    from sigma.data.windows.cutting import Protocol
    from sigma.data.windows.packing import StoredCameras, write_shards
    from sigma.data.windows.split import split_episodes
    from sigma.shared import records
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import digest_folder, write_json

    section = parameters.window
    dataset, base = open_dataset(DATASET), records.read_record(BASE_RECORD, records.BASE)
    record = records.read_record(DATASET_RECORD, records.DATASET)
    if digest_folder(DATASET) != record["digest"]:
        raise SigmaError(
            f"{DATASET}: its content is not what {DATASET_RECORD} names; run the fetch stage again (dvc repro)"
        )
    further, corrected = further_episodes(record)
    check_fit(dataset, base, parameters, len(further))
    cameras = choose_cameras(base, dataset, section.cameras)
    episodes = records.read_record(EPISODES, records.EPISODES)
    used, excluded = episodes["used"], len(episodes["excluded"])
    unknown = set(used) - set(range(len(dataset.episodes)))
    if unknown:
        raise SigmaError(
            f"{EPISODES}: used: no episode {min(unknown)} in {DATASET}; run the audit stage again (dvc repro)"
        )

    critical = _critical_joints(dataset.joint_names, section)
    own = [episode for episode in used if episode not in further]
    splits = split_episodes(first_tasks(dataset, own), section.validation, section.test, section.seed)
    splits["train"] += [episode for episode in used if episode in further]
    # Of the dataset's own episodes alone: a policy that is corrected keeps the units that it was trained in.
    statistics = train_statistics(dataset, [episode for episode in splits["train"] if episode not in further])
    refuse_constant_joints(statistics, dataset.joint_names, section.exclude_joints)
    strides = {"memory_stride", "train_stride", "eval_stride"}
    cut = section.model_dump(include={"horizon", "trace"} | strides)
    protocol = Protocol(chunk_size=base["chunk_size"], **cut)
    bounds = Filter(section.min_action_norm, section.min_motion)
    # A task without words, which no episode that is used has, would leave a reader of the list nothing to read.
    spoken = next(text for text in dataset.tasks if text)
    windows = candidate_windows(dataset, splits, protocol, bounds, statistics, corrected)
    meta = {
        **asdict(protocol),
        "chunk": section.chunk,
        "fps": dataset.fps,
        "cameras": list(cameras),
        "dataset_cameras": list(cameras.values()),
        "resolution": base["resolution"],
        "joint_names": list(dataset.joint_names),
        "exclude_joints": list(section.exclude_joints),
        "critical_joints": critical,
        "tasks": [text or spoken for text in dataset.tasks],
        "statistics": statistics,
        "splits": splits,
        "counts": count_windows(windows),
        "dataset": {key: record[key] for key in ("source", "revision", "digest", "further")},
    }
    stored, budget = StoredCameras(tuple(cameras.values()), base["resolution"]), section.shard_mib * 2**20
    workers = Workers.of(parameters.machine)
    shards = write_shards(SHARDS, dataset, stored, protocol, windows, meta, budget, workers)
    counts, frames = meta["counts"], sum(shard["frames"] for shard in shards)
    recorded = {"recorded": len(dataset.episodes), "excluded": excluded}
    split = {name: len(members) for name, members in splits.items()}
    write_json(METRICS, {"episodes": recorded | split, "windows": counts, "frames": frames})
    kept = ", ".join(f"{name} {count['kept']} of {count['candidates']}" for name, count in counts.items())
    strided = sum(count["strided"] for count in counts.values())
    taught = counts["train"]["corrections"]
    return (
        f"window: kept {kept} windows; {strided} without overlap; {frames} frames in {len(shards)} shards; "
        f"{excluded} of {len(dataset.episodes)} episodes excluded by the audit"
        + (f"; {taught} windows of corrections" if corrected else "")
        + ("" if critical else "; no joint fits window.critical_joints, so no window is critical")
    )
