"""Faults planted in the files of a copy of the embedded dataset, one at a time, and what the audit has to say."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.audit.embedded_copy import (
    ACTION,
    FRAMES,
    HERE,
    LAST,
    LONGEST,
    STATE,
    UP,
    WHOLE,
    WRIST,
    Fault,
    Table,
    edit_episodes,
    edit_json,
    edit_rows,
    edit_values,
    table_file,
)


def _statistics(folder: Path) -> None:
    def change(stored: dict) -> None:
        stored["action"]["mean"][2] += 5.0

    edit_json("stats.json", change, folder)


def _total(folder: Path) -> None:
    edit_json("info.json", lambda info: info.update(total_frames=info["total_frames"] + 10), folder)


def _strays(folder: Path) -> None:
    edit_rows(
        lambda table: pd.concat([table, table[table.episode_index == LAST].assign(episode_index=LAST + 1)]), folder
    )


def _double(folder: Path) -> None:
    table = pq.read_table(table_file(folder))
    vectors = pa.array(np.stack(table[STATE].to_pylist()).tolist(), pa.list_(pa.float64()))
    pq.write_table(table.set_column(table.column_names.index(STATE), STATE, vectors), table_file(folder))


def _five_joints(folder: Path) -> None:
    table = pq.read_table(table_file(folder))
    pairs = zip(table["episode_index"].to_pylist(), table[ACTION].to_pylist(), strict=True)
    vectors = pa.array([row[:5] if episode == HERE else row for episode, row in pairs], pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.column_names.index(ACTION), ACTION, vectors), table_file(folder))


def _lost_row(folder: Path) -> None:
    edit_rows(lambda table: table[~((table.episode_index == HERE) & (table.frame_index == 40))], folder)


def _lost_end(folder: Path) -> None:
    edit_rows(lambda table: table[~((table.episode_index == HERE) & (table.frame_index >= 74))], folder)


def _moved(folder: Path) -> None:
    """The rows of an episode lie in a second table that the metadata does not know."""
    path = table_file(folder)
    table = pd.read_parquet(path)
    table[table.episode_index != HERE].to_parquet(path)
    table[table.episode_index == HERE].to_parquet(path.with_name("file-001.parquet"))


def _span(folder: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[HERE, f"videos/{UP}/to_timestamp"] -= 0.1
        return table

    edit_episodes(change, folder)


def _overlap(folder: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[HERE, [f"videos/{WRIST}/{end}_timestamp" for end in ("from", "to")]] -= 0.5
        return table

    edit_episodes(change, folder)


def _aborted(folder: Path) -> None:
    """The last episode ends after 9 frames, everywhere."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        lost = table.loc[LAST, "length"] - 9
        table.loc[LAST, ["length", "dataset_to_index"]] -= lost
        table.loc[LAST, [f"videos/{camera}/to_timestamp" for camera in (UP, WRIST)]] -= lost / 10
        edit_json("info.json", lambda info: info.update(total_frames=int(info["total_frames"] - lost)), folder)
        return table

    edit_rows(lambda table: table[~((table.episode_index == LAST) & (table.frame_index >= 9))], folder)
    edit_episodes(change, folder)


def _index(folder: Path) -> None:
    """Five numbers are left out before the episode, in the rows and in the metadata of all later ones."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[HERE:, ["dataset_from_index", "dataset_to_index"]] += 5
        return table

    edit_rows(lambda table: table.assign(index=table["index"] + 5 * (table.episode_index >= HERE)), folder)
    edit_episodes(change, folder)


def _empty_task(folder: Path) -> None:
    path = folder / "meta" / "tasks.parquet"
    tasks = pd.read_parquet(path)
    number = len(tasks)
    edit_values(lambda rows: rows["task_index"].fill(number), folder)
    tasks.loc[" "] = number
    tasks.to_parquet(path)


def _swap(rows: Table, column: str) -> None:
    rows[column][[30, 31]] = rows[column][[31, 30]]


def _set(rows: Table, column: str, values: object, where: object = slice(None)) -> None:
    rows[column][where] = values


def _copied(rows: Table, order: np.ndarray, noise: float = 0.0, names: tuple[str, ...] = (STATE, ACTION)) -> None:
    """Values of another episode in ``order``, each off by up to ``noise``."""
    random = np.random.default_rng(0)
    for name in names:
        rows[name][:] = rows[f"other_{name}"][order] + random.uniform(-noise, noise, (len(order), 6))


def _freeze(rows: Table, name: str, frames: int) -> None:
    rows[name][20 : 20 + frames] = rows[name][20]


def _add(rows: Table, name: str, joint: int, amount: float, where: slice = slice(None)) -> None:
    rows[name][where, joint] += amount


def _shifted(rows: Table, frames: int) -> None:
    """The action comes ``frames`` later, or earlier where negative; the ends are repeated."""
    rows[ACTION][:] = rows[ACTION][np.clip(np.arange(FRAMES) - frames, 0, FRAMES - 1)]


def _scaled(rows: Table, factor: float, names: tuple[str, ...] = (STATE, ACTION)) -> None:
    for name in names:
        rows[name] *= np.float32(factor)


def _everywhere(change: Callable[[np.ndarray], None], folder: Path) -> None:
    """``change`` alters the state and the action of all frames, float [N, 6], in place."""

    def alter(table: pd.DataFrame) -> pd.DataFrame:
        columns = {name: np.stack(table[name].to_numpy()) for name in (STATE, ACTION)}
        for values in columns.values():
            change(values)
        return table.assign(**{name: list(values) for name, values in columns.items()})

    edit_rows(alter, folder)


def _turned(values: np.ndarray) -> None:
    values *= np.float32(1.8 * np.pi / 180)


def _rested(values: np.ndarray) -> None:
    values[:, 4] = 12.5


def _pressed(rows: Table) -> None:
    """The wrist sits at its highest value for 3 s and then moves over to where it was."""
    weight = np.clip((np.arange(FRAMES) - 30) / 15, 0, 1)[:, None]
    for name, top in ((STATE, np.float32(100.55411)), (ACTION, np.float32(100.0))):
        rows[name][:, 3:4] = np.where(weight > 0, top + weight * (rows[name][:, 3:4] - top), top)


def _values_fault(words: str, check: str, change: Callable[..., None], *arguments: object, **options: object) -> Fault:
    """A fault in the values of one episode; ``severity``, ``episode`` and ``also`` are the fault's own."""
    own = {name: options.pop(name) for name in ("severity", "episode", "also") if name in options}
    alter = lambda rows: change(rows, *arguments, **options)  # noqa: E731
    return Fault(words, partial(edit_values, alter), check, **own)


RADIANS, EVERY_0, WRAPPED, GLITCH = np.pi / 180, (slice(None), 0), slice(40, 55), slice(40, 41)
STALE, JUMPS = ("stale_statistics",), ("jump", "action_jump")
# Of other values another joint is the one that moves most while the cube is held up.
HELD = (*STALE, "frozen_action")
ANY_ORDER = np.random.default_rng(0).permutation(FRAMES)
FAULTS = (
    Fault("`meta/stats.json` of other data", _statistics, "stale_statistics", "warn", WHOLE),
    Fault("`total_frames` 10 too high", _total, "frame_total", episode=WHOLE),
    Fault("rows of an episode that no metadata lists", _strays, "frame_total", episode=WHOLE),
    Fault("state stored as float64", _double, "wrong_type", "warn", 0),
    Fault("actions of five joints", _five_joints, "wrong_type"),
    Fault("a row lost", _lost_row, "row_count", also=("row_order", "index_gap", "timestamp_gap")),
    Fault("the last three rows lost", _lost_end, "row_count"),
    Fault("rows in a table that the metadata does not name", _moved, "misplaced_rows", "warn"),
    Fault("a frame of video fewer than rows, in the metadata", _span, "video_span"),
    Fault("video that begins in the episode before", _overlap, "video_span"),
    Fault("an episode of 9 frames", _aborted, "short_episode", "warn", LAST),
    _values_fault("two frame_index exchanged", "row_order", _swap, "frame_index"),
    Fault("global index skips five numbers", _index, "index_gap"),
    _values_fault("a NaN in the action", "non_finite", _set, ACTION, np.nan, (20, 3)),
    _values_fault("an infinite state", "non_finite", _set, STATE, np.inf, (20, 3)),
    _values_fault("two timestamps exchanged", "timestamp_order", _swap, "timestamp", also=("timestamp_gap",)),
    _values_fault("a pause of two frames", "timestamp_gap", _set, "timestamp", np.arange(41, 79) / 10, slice(39, None)),
    _values_fault("9.5 rows a second", "clock_rate", _set, "timestamp", np.arange(FRAMES) / 9.5, severity="warn"),
    Fault("an empty instruction", _empty_task, "missing_task"),
    _values_fault("a task that is not listed", "unknown_task", _set, "task_index", 99),
    _values_fault("a copy of another episode", "duplicate_episode", _copied, np.arange(FRAMES)),
    _values_fault("a copy with its rows shuffled", "duplicate_episode", _copied, ANY_ORDER, also=JUMPS),
    _values_fault("a copy off by 0.005 units", "duplicate_episode", _copied, np.arange(FRAMES), noise=0.005),
    _values_fault("state stands still for 3 s", "frozen_state", _freeze, STATE, 30, also=("jump",)),
    _values_fault("action stands still for 4 s", "frozen_action", _freeze, ACTION, 40, also=("action_jump",)),
    _values_fault("a joint that never moves", "dead_joint", _set, STATE, 12.5, EVERY_0, also=("diverging_action",)),
    _values_fault("a joint pressed against its stop", "saturated_joint", _pressed, severity="warn"),
    _values_fault("an encoder that wraps around", "jump", _add, STATE, 1, -100, WRAPPED, also=STALE),
    _values_fault("a glitch of a joint's action", "action_jump", _add, ACTION, 1, -100, GLITCH, also=STALE),
    _values_fault("leader and follower 35 % apart", "diverging_action", _add, ACTION, 2, -37, also=STALE),
    _values_fault("the action of another episode", "diverging_action", _copied, np.arange(FRAMES), names=(ACTION,)),
    _values_fault("the action comes 2 frames late", "time_shift", _shifted, 2, severity="warn"),
    _values_fault("the action comes 5 frames late", "time_shift", _shifted, 5),
    _values_fault("the action comes 4 frames early", "time_shift", _shifted, -4, also=("diverging_action",)),
    _values_fault("an episode in degrees", "outside_range", _scaled, 1.8, episode=WHOLE, also=(*JUMPS, *STALE)),
    _values_fault("an episode in radians", "other_units", _scaled, 1.8 * RADIANS, also=STALE),
    Fault("every episode in radians", partial(_everywhere, _turned), "small_values", episode=WHOLE, also=HELD),
    Fault("a joint that moves in no episode", partial(_everywhere, _rested), "still_joint", episode=WHOLE, also=HELD),
    _values_fault(
        "state in radians",
        "unit_mismatch",
        _scaled,
        1.1 * RADIANS,
        names=(STATE,),
        also=("diverging_action", "other_units", *STALE),
    ),
    _values_fault(
        "action in degrees",
        "diverging_action",
        _scaled,
        1.8,
        names=(ACTION,),
        also=("unit_mismatch", "action_jump", *STALE),
    ),
)


def _damaged(folder: Path) -> None:
    """The bytes of an episode's frames of one camera are overwritten, but for the last: the next episode needs them."""
    import av

    whole = FRAMES - 20
    path = next((folder / "videos" / UP).rglob("*.mp4"))
    first = int(pd.read_parquet(next((folder / "meta" / "episodes").rglob("*.parquet"))).dataset_from_index[HERE])
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        times = [round(packet.pts * packet.time_base * 10) for packet in packets]
        places = [(one.pos, one.size) for one, time in zip(packets, times, strict=True) if 0 <= time - first < whole]
    content = bytearray(path.read_bytes())
    for place, size in places:
        content[place : place + size] = b"\xff" * size
    path.write_bytes(content)


def _size(folder: Path) -> None:
    edit_json("info.json", lambda info: info["features"][WRIST].update(shape=[64, 64, 3]), folder)


FILE_FAULTS = (
    Fault("frames of one episode overwritten in the file", _damaged, "undecodable_video"),
    Fault("images of another size than declared", _size, "image_size", episode=LONGEST),
)
