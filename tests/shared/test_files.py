"""Files appear whole or not at all, and the same content is the same bytes."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import (
    atomic_directory,
    atomic_file,
    digest_file,
    digest_folder,
    read_json,
    read_table,
    write_json,
    write_table,
)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_seen_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        assert not target.exists() and temporary.parent == target.parent
        temporary.write_text("whole")
    assert target.read_text() == "whole" and names(target.parent) == ["file.txt"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "deep" / "folder"
    for content in ({"a": "1", "b": "2"}, {"c": "3"}):
        with atomic_directory(target) as temporary:
            (temporary / "sub").mkdir()
            for name, text in content.items():
                (temporary / "sub" / name).write_text(text)
        assert names(target) == sorted([*content, "sub"])
    assert names(target.parent) == ["c", "folder", "sub"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_folder_and_leaves_nothing(tmp_path, error):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(error), atomic_directory(target) as temporary:
        (temporary / "half").write_text("2")
        raise error
    assert names(tmp_path) == ["folder", "old"]


REPLACE_TWICE = """
import os, sys
from pathlib import Path
from sigma.shared.files import atomic_directory
calls, whole = [], os.replace
def replace(*paths):
    calls.append(paths)
    if len(calls) == 2:
        os._exit(9)
    whole(*paths)
os.replace = replace
with atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("new")
"""


def test_a_kill_between_the_renames_leaves_the_old_folder_whole_on_the_disk(tmp_path):
    target = tmp_path / "out"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("old")
    assert subprocess.run([sys.executable, "-c", REPLACE_TWICE, str(target)], check=False).returncode == 9
    assert sorted(file.read_text() for file in tmp_path.rglob("a")) == ["new", "old"]


def test_a_failing_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "out"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("old")
    whole = os.replace

    def replace(source, destination):
        if Path(destination) == target and not Path(source).name.endswith(".old"):
            raise OSError("disk")
        whole(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="disk"), atomic_directory(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": {"b": math.nan}}, r"file\.json\.a\.b"),
        ({"a": [1.0, math.inf]}, r"file\.json\.a\[1\]"),
        ({"a": ({"c": -math.inf},)}, r"file\.json\.a\[0\]\.c"),
        ({"a": np.float64("nan")}, r"file\.json\.a"),
        (math.nan, r"file\.json"),
    ],
)
def test_json_refuses_what_is_not_finite_and_names_its_key(tmp_path, value, place):
    with pytest.raises(ValueError, match=rf"^{place}: a non-finite number"):
        write_json(tmp_path / "file.json", value)
    assert names(tmp_path) == []


def test_json_is_the_same_bytes_for_the_same_content(tmp_path):
    write_json(tmp_path / "a.json", {"z": 1, "a": {"y": 0.1, "b": [1, "é"]}})
    write_json(tmp_path / "b.json", {"a": {"b": [1, "é"], "y": 0.1}, "z": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n") and "é" in text and list(json.loads(text)) == ["a", "z"]
    assert read_json(tmp_path / "a.json") == {"z": 1, "a": {"y": 0.1, "b": [1, "é"]}}


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_broken_json_file_is_one_clear_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SigmaError, match=r"a\.json: not readable as JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(SigmaError, match=r"b\.json: not found; run the stage that writes it"):
        read_json(tmp_path / "b.json")


def test_tables_have_stable_bytes_and_broken_ones_are_named(tmp_path):
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    for name in ("a.parquet", "b.parquet"):
        write_table(tmp_path / name, table)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_table(tmp_path / "a.parquet") == table
    assert read_table(tmp_path / "a.parquet", ["b"]).column_names == ["b"]
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(SigmaError, match=r"a\.parquet: not readable as Parquet"):
        read_table(tmp_path / "a.parquet")
    with pytest.raises(SigmaError, match=r"c\.parquet: not found"):
        read_table(tmp_path / "c.parquet")


def test_a_folders_digest_follows_names_and_bytes_alone(tmp_path):
    def make(name: str, content: dict[str, str]):
        folder = tmp_path / name
        for file, text in content.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        return folder

    one = make("one", {"b/x": "1", "a": "2"})
    same = make("same", {"a": "2", "b/x": "1"})
    os.utime(same / "a", (0, 0))
    assert digest_folder(one) == digest_folder(same)
    for number, content in enumerate(
        ({"b/x": "1", "c": "2"}, {"b/x": "1", "a": "3"}, {"b/x": "2", "a": "1"}, {"a": "2"})
    ):
        assert digest_folder(make(f"other{number}", content)) != digest_folder(one)
    assert digest_file(one / "a") == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
