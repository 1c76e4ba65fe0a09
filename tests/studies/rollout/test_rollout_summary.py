"""The summary joins tables that belong together, refuses others, and needs neither torch nor MuJoCo."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from sigma.shared.errors import SigmaError
from sigma.shared.files import write_json, write_table
from sigma.studies.rollout import rollout_summary
from tests.worlds import ROOT

SECTION = YAML(typ="safe").load((ROOT / "stages/rollout/params.yaml").read_text(encoding="utf-8"))


def write(folder: Path, arm: str, rates: dict[str, float], *, episodes: int = 20, first: int = 5, protocol="p") -> Path:
    """A table in which the share ``rates[task]`` of the episodes succeeds, the lowest seeds."""
    rows = []
    for task, rate in rates.items():
        task, _, setting = task.partition("/")
        for place in range(episodes):
            success = place < rate * episodes
            kind = None if success else "dropped"
            row = {"task": task, "setting": setting or "plain", "seed": first + place, "success": success}
            rows.append(row | {"progress": float(success), "wrong_box": False, "failure": kind})
    np.random.default_rng(0).shuffle(rows)
    path = folder / f"{arm}.parquet"
    write_table(path, pa.Table.from_pylist(rows).replace_schema_metadata({"arm": arm, "protocol": protocol}))
    played = []
    for speed, name in enumerate(rates, start=100):
        task, _, setting = name.partition("/")
        rate = None if arm == "expert" else speed
        played.append({"task": task, "setting": setting or "plain", "decisions_per_second": rate})
    write_json(path.with_suffix(".json"), {"arm": arm, "played": played})
    return path


RATES = {
    "base": {"pick_place": 0.0, "reach": 0.9, "lift": 0.8, "pick_place/delay": 0.0},
    "sigma": {"pick_place": 0.6, "reach": 0.9, "lift": 0.7, "pick_place/delay": 0.5},
    "plain_lora_mean": {"pick_place": 0.4, "reach": 0.2, "lift": 0.2, "pick_place/delay": 0.5},
}


@pytest.fixture
def tables(tmp_path):
    return [write(tmp_path, arm, rates) for arm, rates in RATES.items()]


@pytest.fixture
def params(tmp_path):
    file = tmp_path / "params.yaml"
    SECTION["rollout"]["base_tasks"] = ["reach", "lift"]
    with open(file, "w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(SECTION, stream)
    return file


def summarise(tables, params):
    output = params.parent / "metrics.json"
    line = rollout_summary.run(tables=tables, params=params, output=output)
    return json.loads(output.read_text()), line


def test_every_task_and_setting_holds_arms_and_pairs(tables, params):
    found, line = summarise(tables, params)
    assert set(found) == {"pick_place", "reach", "lift", "pick_place/delay", "retention"}
    assert set(found["pick_place"]["arms"]) == set(RATES)
    pair = found["pick_place"]["paired"]["plain_lora_mean"]
    assert (pair["both"], pair["only_sigma"], pair["only_other"]) == (8, 4, 0)
    assert pair["difference"] == pytest.approx(0.2) and pair["low"] < 0.2 < pair["high"]
    assert pair["p"] == pytest.approx(2 * 0.5**4)
    assert found["pick_place"]["arms"]["base"]["failures"] == {"dropped": 20}
    assert "sigma 60%" in line


def test_retention_compares_with_the_base_on_its_own_tasks(tables, params):
    arms = summarise(tables, params)[0]["retention"]["arms"]
    assert arms["base"]["difference"] == 0.0
    assert arms["sigma"]["difference"] == pytest.approx(-0.05)
    assert arms["plain_lora_mean"]["difference"] == pytest.approx(-0.65)
    assert arms["plain_lora_mean"]["difference_hi"] < -0.3


def test_order_of_the_tables_changes_nothing_and_without_sigma_there_is_no_pair(tables, params):
    first, _ = summarise(tables, params)
    assert summarise(tables[::-1], params)[0] == first
    without, _ = summarise([table for table in tables if table.stem != "sigma"], params)
    assert without["pick_place"]["paired"] == {}


def test_arms_of_other_episodes_or_parameters_are_refused(tables, params, tmp_path):
    other = write(tmp_path, "told_motion", RATES["sigma"], first=6)
    with pytest.raises(SigmaError, match="base and told_motion did not play the same episodes"):
        summarise([*tables, other], params)
    other = write(tmp_path, "told_motion", RATES["sigma"], protocol="q")
    with pytest.raises(
        SigmaError, match=r"told_motion\.parquet: was played with other parameters than .*base\.parquet"
    ):
        summarise([*tables, other], params)
    with pytest.raises(SigmaError, match="second table of the arm base"):
        summarise([*tables, tables[0]], params)


def test_a_missing_or_foreign_table_is_named(tables, params, tmp_path):
    with pytest.raises(SigmaError, match=r"gone\.parquet: not found"):
        summarise([*tables, tmp_path / "gone.parquet"], params)
    foreign = tmp_path / "foreign.parquet"
    write_table(foreign, pa.table({"task": ["a"]}))
    with pytest.raises(SigmaError, match=r"foreign\.parquet: no table of `sigma rollout` \(lacks setting, seed"):
        summarise([*tables, foreign], params)
    with pytest.raises(SigmaError, match="no table given"):
        summarise([], params)


def test_each_arm_has_the_speed_of_its_policy(tables, params, tmp_path):
    expert = write(tmp_path, "expert", RATES["sigma"])
    found, _ = summarise([*tables, expert], params)
    assert found["pick_place"]["arms"]["sigma"]["decisions_per_second"] == 100
    assert found["pick_place/delay"]["arms"]["base"]["decisions_per_second"] == 103
    assert all("decisions_per_second" not in found[name]["arms"]["expert"] for name in found)


def test_a_clock_that_is_not_of_its_table_is_refused(tables, params):
    clock = tables[1].with_suffix(".json")
    whole = json.loads(clock.read_text())
    for other in (whole | {"arm": "told_motion"}, whole | {"played": whole["played"][:-1]}):
        write_json(clock, other)
        with pytest.raises(SigmaError, match=r"sigma\.json: is of another arm or other episodes"):
            summarise(tables, params)
    for other in ([], {"arm": "sigma"}, {"arm": "sigma", "played": [{"task": "reach"}]}, {"arm": "sigma", "played": 3}):
        write_json(clock, other)
        with pytest.raises(SigmaError, match=r"sigma\.json: .*; play the arm again with `sigma rollout`"):
            summarise(tables, params)
    clock.unlink()
    with pytest.raises(SigmaError, match=r"sigma\.json: not found"):
        summarise(tables, params)


@pytest.mark.processes
def test_it_loads_neither_torch_nor_mujoco(tables, params):
    code = (
        "import sys; from pathlib import Path; from sigma.studies.rollout import rollout_summary\n"
        f"rollout_summary.run(tables=[Path(name) for name in {[str(table) for table in tables]!r}],"
        f" params=Path({str(params)!r}), output=Path({str(params.parent / 'm.json')!r}))\n"
        "print(*{'torch', 'mujoco', 'lerobot', 'gymnasium'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
