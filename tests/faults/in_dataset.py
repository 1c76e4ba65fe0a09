"""Faults in a LeRobotDataset: its metadata, its tables, its videos."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.datasets import JOINTS
from tests.faults.case import (
    Fault,
    Project,
    as_fetched,
    column,
    content,
    cut,
    gone,
    json_with,
    json_without,
    parameters,
    table_with,
    together,
)

INFO, TASKS = "recorded/meta/info.json", "recorded/meta/tasks.parquet"
EPISODES = "recorded/meta/episodes/chunk-000/file-000.parquet"
TABLE = "data/dataset/data/chunk-000/file-000.parquet"
VIDEO = "data/dataset/videos/observation.images.up/chunk-000/file-000.mp4"
UP = "features.observation.images.up"


FOUND = ("data/audit", "data/episodes.json", "metrics/audit.json")


def feature(key: str, name: str, value: Any) -> Callable[[Project], None]:
    """A field of a feature in info.json; a feature's own name has dots."""
    return lambda project: project.json(INFO, lambda info: info["features"][key].update({name: value}))


def one(index: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """A list with another value at one place."""
    return lambda values: [value if position == index else old for position, old in enumerate(values)]


def nan_at(row: int) -> Callable[[Any], Any]:
    """A joint state that is no number."""
    return lambda rows: [[np.nan, *values[1:]] if index == row else values for index, values in enumerate(rows)]


def shorter_video(project: Project) -> None:
    """The last frames of a camera are gone: the file is written anew from the first half of its frames."""
    import av

    path = project.path(VIDEO)
    with av.open(str(path)) as container:
        fps = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.height, stream.width = frames[0].shape[:2]
        for image in frames[: len(frames) // 2]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def constant_joint(table: Any) -> Any:
    for name in ("action", "observation.state"):
        table = column(name, lambda rows: [[*values[:5], 1.0] for values in rows])(table)
    return table


def audited(table: str, name: str, value: Any) -> Callable[[Project], None]:
    """A value of the first episode's entry in the fetched metadata, in place of what stood there."""
    return table_with(table.replace("recorded", "data/dataset"), column(name, one(0, value)))


def playlist(project: Project) -> None:
    """A camera's file is a list that names a film outside the dataset."""
    path = project.path(VIDEO)
    outside = project.root.parent / "outside.mp4"
    path.rename(outside)
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{outside}\n#EXT-X-ENDLIST\n")


FAULTS = [
    Fault("no metadata", "fetch", gone("recorded/meta"), "recorded: not a LeRobotDataset folder (no meta/info.json)"),
    Fault("info.json is not JSON", "fetch", cut(INFO), f"{INFO}: not readable as JSON (…)"),
    Fault("info.json is nested too deep", "fetch", content(INFO, "[" * 200_000), f"{INFO}: not readable as JSON (…)"),
    Fault(
        "info.json is a list",
        "fetch",
        content(INFO, "[]"),
        f"{INFO}: codebase_version None is not read, only 'v3.0'; …",
    ),
    Fault(
        "older format",
        "fetch",
        json_with(INFO, "codebase_version", "v2.1"),
        f"{INFO}: codebase_version 'v2.1' is not read, only 'v3.0'; convert it with: python -m …",
    ),
    Fault(
        "fps is a word",
        "fetch",
        json_with(INFO, "fps", "ten"),
        f"{INFO}: fps: expected a whole number from 1 to 1000, found 'ten'",
    ),
    Fault(
        "fps is infinite",
        "fetch",
        json_with(INFO, "fps", np.inf),
        f"{INFO}: fps: expected a whole number from 1 to 1000, found inf",
    ),
    Fault(
        "fps is a number of 400 digits",
        "fetch",
        json_with(INFO, "fps", 10**400),
        f"{INFO}: fps: expected a whole number from 1 to 1000, found 1000…",
    ),
    Fault(
        "a total of 400 digits",
        "fetch",
        json_with(INFO, "total_frames", 10**400),
        f"{INFO}: total_frames: expected a whole number, found 1000…",
    ),
    Fault(
        "a total that is text",
        "fetch",
        json_with(INFO, "total_episodes", "8"),
        f"{INFO}: total_episodes: expected a whole number, found '8'",
    ),
    Fault(
        "a robot's type that is no name",
        "fetch",
        json_with(INFO, "robot_type", np.nan),
        f"{INFO}: robot_type: expected a name or null, found nan",
    ),
    Fault(
        "an episode of half a frame more",
        "fetch",
        table_with(EPISODES, column("length", lambda rows: [float(rows[0]) + 0.5, *map(float, rows[1:])])),
        "recorded/meta/episodes: episode 0: unusable entry (length: found 28.5; legal: 0 to …)",
    ),
    Fault(
        "an episode that ends at no time",
        "audit",
        audited(EPISODES, "videos/observation.images.up/to_timestamp", None),
        "data/dataset/meta/episodes: episode 0: videos/observation.images.up/to_timestamp: expected a number, …",
    ),
    Fault(
        "an episode that ends at a word",
        "audit",
        table_with(
            EPISODES.replace("recorded", "data/dataset"),
            column("videos/observation.images.up/to_timestamp", lambda rows: ["late"] * len(rows)),
        ),
        "data/dataset/meta/episodes: episode 0: videos/observation.images.up/to_timestamp: expected a number, found …",
    ),
    Fault(
        "statistics of 400 digits",
        "audit",
        content("data/dataset/meta/stats.json", f'{{"action": {{"min": [{10**400}]}}}}'),
        "data/dataset/meta/stats.json: action.min: expected numbers",
    ),
    Fault(
        "every episode fails",
        "audit",
        parameters(audit__on_failure="exclude", audit__limits={"short_episode": {"fail": 0.0}}, audit__min_frames=99),
        "data/dataset: every episode is excluded (params.yaml: audit.exclude, audit.on_failure); worst: … in episode …",
        writes=FOUND,
    ),
    Fault(
        "another dataset than was fetched",
        "window",
        table_with(TABLE, column("task_index", lambda rows: rows[::-1])),
        "data/dataset: its content is not what data/dataset.json names; run the fetch stage again (dvc repro)",
    ),
    Fault(
        "no joint is left to score",
        "window",
        parameters(window__exclude_joints=list(JOINTS)),
        "params.yaml: window.exclude_joints: every joint is left out of the scores; keep one",
    ),
    Fault(
        "the audit's counts are a list",
        "report",
        content("metrics/audit.json", "[]"),
        "metrics/audit.json: expected a mapping, found list; run the stage that writes it again (dvc repro)",
    ),
    Fault(
        "the audit's counts are below zero",
        "report",
        json_with("metrics/audit.json", "used", -1),
        "metrics/audit.json: used: expected greater than or equal to 0, found -1; …",
    ),
    Fault(
        "another table for the audit's findings",
        "report",
        table_with("data/audit.parquet", lambda table: table.drop_columns("check")),
        "data/audit.parquet: column 'check' is missing; run the stage that writes it again (dvc repro)",
    ),
    Fault(
        "a film that is a list of other films",
        "window",
        playlist,
        "…/data/dataset/videos/observation.images.up/chunk-000/file-000.mp4: episode 0 cannot be decoded (…)",
    ),
    Fault(
        "no camera",
        "fetch",
        json_with(INFO, "features", {}),
        f"{INFO}: features.observation.state: a vector is needed, …",
    ),
    Fault(
        "a camera's shape is words",
        "fetch",
        feature("observation.images.up", "shape", ["tall", "wide", 3]),
        "params.yaml: window.cameras.observation.images.up: the base needs this camera and 'observation.images.up' "
        f"cannot be used ({INFO}: {UP}: expected height, width and 3 channels, found ['tall', 'wide', 3]); legal: …",
    ),
    Fault(
        "state and action of different size",
        "fetch",
        feature("action", "shape", [5]),
        f"{INFO}: observation.state has 6 values and action 5; …",
    ),
    Fault("tasks.parquet is missing", "fetch", gone(TASKS), f"{TASKS}: not found; the dataset is incomplete"),
    Fault("tasks.parquet is truncated", "fetch", cut(TASKS), f"{TASKS}: not readable as Parquet (…"),
    Fault(
        "a task that the base's prompt has no room for",
        "fetch",
        table_with(TASKS, column("task", one(1, "lift the cube " * 9))),
        "meta/tasks.parquet: instruction 'lift the … makes a prompt of … tokens with the state of 6 joints; the policy "
        "reads at most 32; …",
    ),
    Fault(
        "a task without a text",
        "audit",
        table_with(TASKS.replace("recorded", "data/dataset"), column("task", one(1, None))),
        "data/dataset: audit: … failures in the episodes in use; …",
        writes=FOUND,
    ),
    Fault(
        "two tasks of one number",
        "fetch",
        table_with(TASKS, column("task_index", one(1, 0))),
        f"{TASKS}: expected one row a task with task_index 0 to 1",
    ),
    Fault(
        "no table of episodes",
        "fetch",
        gone("recorded/meta/episodes"),
        "recorded/meta/episodes: no table of episodes found; …",
    ),
    Fault(
        "an episode without a length",
        "fetch",
        table_with(EPISODES, lambda table: table.drop_columns("length")),
        "recorded/meta/episodes: episode 0: unusable entry ('length')",
    ),
    Fault(
        "an episode without a number",
        "fetch",
        table_with(EPISODES, column("episode_index", one(3, None))),
        f"{EPISODES}: column 'episode_index' has 1 empty values",
    ),
    Fault(
        "an episode listed twice",
        "fetch",
        table_with(EPISODES, column("episode_index", one(3, 2))),
        "recorded/meta/episodes: episode 2 is listed twice; LeRobot counts episodes 0, 1, 2, …",
    ),
    Fault(
        "an episode's number left out",
        "fetch",
        table_with(EPISODES, column("episode_index", lambda rows: [row + (row > 3) for row in rows])),
        "recorded/meta/episodes: episode 4 is missing (it goes on with 5); …",
    ),
    Fault(
        "an episode of negative length",
        "fetch",
        table_with(EPISODES, column("length", one(3, -1))),
        "recorded/meta/episodes: episode 3: unusable entry (length: found -1; legal: 0 to …)",
    ),
    Fault(
        "an episode of a billion frames",
        "fetch",
        table_with(EPISODES, column("length", one(3, 10**9))),
        "recorded/meta/episodes: episode 3: unusable entry (length: found 1000000000; legal: 0 to …)",
    ),
    Fault(
        "a video that begins at no time",
        "fetch",
        table_with(EPISODES, column("videos/observation.images.up/from_timestamp", one(3, np.nan))),
        "params.yaml: window.cameras.observation.images.up: … cannot be used (recorded/meta/episodes: unusable entry "
        "(episode 3: videos/observation.images.up/from_timestamp: found nan; legal: seconds from 0)); legal: null …",
    ),
    Fault(
        "more episodes declared than listed",
        "fetch",
        json_with(INFO, "total_episodes", 9),
        f"{INFO}: total_episodes is 9, but meta/episodes lists 8; the recording was not finished",
    ),
    Fault(
        "a video is missing",
        "fetch",
        gone(VIDEO.replace("data/dataset", "recorded")),
        "params.yaml: window.cameras.observation.images.up: … cannot be used "
        f"({VIDEO.replace('data/dataset', 'recorded')}: not found, but the metadata names it; …); legal: null …",
    ),
    Fault(
        "stats.json is a list",
        "audit",
        content("data/dataset/meta/stats.json", "[]"),
        "data/dataset/meta/stats.json: observation.state: expected a mapping of figures by name",
    ),
    Fault("a table is truncated", "window", cut(TABLE), f"{TABLE}: not readable as a LeRobot table (…"),
    Fault(
        "a state that is no number",
        "audit",
        table_with(TABLE, column("observation.state", nan_at(40))),
        "data/dataset: audit: … failures in the episodes in use; …",
        writes=FOUND,
    ),
    Fault(
        "a video is cut off",
        "audit",
        cut(VIDEO),
        "data/dataset: audit: … failures in the episodes in use; …",
        writes=FOUND,
    ),
    Fault(
        "a state that is no number, faulty episodes excluded",
        "audit",
        together(parameters(audit__on_failure="exclude"), table_with(TABLE, column("observation.state", nan_at(40)))),
        "audit: 8 episodes, …, 1 episodes excluded",
        recovers="the episode is left out of every later stage and listed in data/episodes.json",
        writes=(*FOUND, "logs"),
    ),
    Fault(
        "a state that is no number, after the audit",
        "window",
        table_with(TABLE, column("observation.state", nan_at(40))),
        f"{TABLE}: episode 1: non-finite state or action; list it in params.yaml: audit.exclude",
    ),
    Fault(
        "a row is missing",
        "window",
        table_with(TABLE, lambda table: table.slice(0, table.num_rows - 1)),
        f"{TABLE}: episode 7: 27 rows, 28 declared; list it in params.yaml: audit.exclude",
    ),
    Fault(
        "states are words",
        "window",
        table_with(TABLE, column("observation.state", lambda rows: [["far"] * 6 for _ in rows])),
        f"{TABLE}: column 'observation.state' is not numeric with equal lengths",
    ),
    Fault(
        "times are words",
        "window",
        table_with(TABLE, column("timestamp", lambda rows: ["noon"] * len(rows))),
        f"{TABLE}: column 'timestamp' is not numeric",
    ),
    Fault("no actions", "window", table_with(TABLE, lambda table: table.drop_columns("action")), f"{TABLE}: …action…"),
    Fault(
        "a task that is not listed",
        "window",
        table_with(TABLE, column("task_index", one(0, 7))),
        f"{TABLE}: episode 0: a task that meta/tasks.parquet does not list; list it in params.yaml: audit.exclude",
    ),
    Fault(
        "a joint that never moves",
        "window",
        table_with(TABLE, constant_joint),
        "observation.state: joint 'gripper.pos' has equal 1 % and 99 % quantiles (1) in the train episodes and …",
    ),
    Fault("a video is empty", "window", content(VIDEO, b""), f"…/{VIDEO}: episode 0 cannot be decoded (…)"),
    Fault("a video is text", "window", content(VIDEO, "film " * 99), f"…/{VIDEO}: episode 0 cannot be decoded (…)"),
    Fault(
        "a video has fewer frames than its table",
        "window",
        shorter_video,
        "…/data/dataset: observation.images.up: episode … has no frame for step … missing); run the audit stage, …",
    ),
    Fault(
        "episodes.json names none",
        "window",
        json_without("data/episodes.json", "used"),
        "data/episodes.json: key 'used' is missing; …",
    ),
    Fault(
        "episodes.json names an episode that is not there",
        "window",
        json_with("data/episodes.json", "used", [0, 1, 2, 3, 4, 99]),
        "data/episodes.json: used: no episode 99 in data/dataset; …",
    ),
]

# What the window stage meets in the dataset was fetched so, but for one fault.
FAULTS = [
    replace(fault, inject=as_fetched(fault.inject))
    if fault.command == "window" and fault.what != "another dataset than was fetched"
    else fault
    for fault in FAULTS
]
