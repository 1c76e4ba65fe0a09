"""What a round of corrections gained: the scores of rounds that were played, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import write_json, write_table
from sigma.studies.study.correct import round, score
from tests.studies.study.projects import write_study
from tests.worlds import World, inside

SEEDS, EPISODES = (0, 1, 2), 30
WAYS = ("before", "continued", "demonstrations")
PLAYED = (("pick_place", "plain"), ("pick_place", "push"), ("pick_place", "noise"), ("reach", "plain"))
# Won of ten episodes by way, in every place; noise is what corrections mend.
WON = {
    "before": {"plain": 8, "push": 3, "noise": 2, "reach": 9},
    "continued": {"plain": 8, "push": 6, "noise": 7, "reach": 7},
    "demonstrations": {"plain": 9, "push": 4, "noise": 2, "reach": 9},
}
SECTION = {
    "tasks": ["pick_place"],
    "arms": ["sigma"],
    "seeds": list(SEEDS),
    "ways": list(WAYS),
    "settings": ["plain", "push", "noise"],
    "episodes": 50,
    "steps": 100,
    "patience": 4.0,
    "played": 30,
}
CORRECTIONS = Path("stages/corrections/params.yaml")


def write_round(folder: Path, way: str) -> None:
    rows = []
    for task, setting in PLAYED:
        won = WON[way][setting if task == "pick_place" else task]
        for episode in range(EPISODES):
            about = {"arm": f"sigma_{way}", "task": task, "setting": setting, "seed": 2000 + episode}
            result = {"success": episode % 10 < won, "progress": 0.5, "wrong_box": False, "failure": "dropped"}
            rows.append(about | result | {"risk": None, "scale": None})
    types = {"seed": pa.int64(), "success": pa.bool_(), "progress": pa.float64(), "wrong_box": pa.bool_()}
    types |= dict.fromkeys(("risk", "scale"), pa.list_(pa.float64()))
    schema = pa.schema([(key, types.get(key, pa.string())) for key in rows[0]]).with_metadata({"protocol": "{}"})
    write_table(folder / "episodes.parquet", pa.Table.from_pylist(rows, schema=schema))
    clocks = [{"arm": f"sigma_{way}", "task": task, "setting": setting} for task, setting in PLAYED]
    write_json(folder / "episodes.json", {"played": [clock | {"decisions_per_second": 5.0} for clock in clocks]})


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "params.yaml").write_text((Path(__file__).parents[3] / "params.yaml").read_text())
    write_study(World(tmp_path))
    (tmp_path / CORRECTIONS).parent.mkdir(parents=True)
    (tmp_path / CORRECTIONS).write_text(json.dumps({"corrections": SECTION}))
    for way in WAYS:
        for seed in SEEDS:
            write_round(tmp_path / f"rounds/pick_place/sigma/{way}/{seed}", way)
    return tmp_path


def scored(project: Path) -> dict:
    with inside(project):
        score.run(
            rounds=Path("rounds"),
            params=Path("stages/study/params.yaml"),
            corrections=CORRECTIONS,
            output=Path("corrections.json"),
        )
    return json.loads((project / "corrections.json").read_text())["pick_place"]


def test_a_round_is_compared_with_before_and_with_demonstrations_in_the_harder_settings_and_where_it_forgets(project):
    found = scored(project)
    assert set(found) == {"plain", "push", "noise", "harder", "reach"}
    harder = found["harder"]
    assert harder["sigma_before"]["success"] == pytest.approx(0.25) and harder["sigma_before"]["episodes"] == 60
    gained = harder["sigma_continued"]
    assert gained["minus_before"]["difference"] == pytest.approx(0.65 - 0.25)
    assert gained["minus_demonstrations"]["difference"] == pytest.approx(0.65 - 0.3)
    assert gained["minus_before"]["lo"] > 0 and gained["minus_before"]["p"] < 0.01
    assert "minus_before" not in harder["sigma_before"]
    assert found["plain"]["sigma_continued"]["minus_before"]["difference"] == 0
    assert found["reach"]["sigma_continued"]["minus_before"]["difference"] == pytest.approx(-0.2)
    assert np.isclose(found["noise"]["sigma_demonstrations"]["minus_before"]["difference"], 0)


def test_a_round_that_is_missing_is_named(project):
    (project / "rounds/pick_place/sigma/continued/1/episodes.parquet").unlink()
    with pytest.raises(SigmaError, match=r"sigma/continued/1/episodes\.parquet: not found"):
        scored(project)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"way": "twice"}, r"stages/corrections/params\.yaml: corrections\.ways: no 'twice'; legal: before, continued"),
        ({"seed": 9}, "study.seeds: no seed 9; legal: 0, 1, 2"),
        ({"task": "fold"}, "study.tasks: no 'fold'"),
    ],
)
def test_what_is_not_listed_is_refused_before_anything_is_read(project, changes, line):
    given = {"task": "pick_place", "arm": "sigma", "way": "continued", "seed": 0, "corrections": CORRECTIONS}
    given |= {"params": Path("stages/study/params.yaml"), "output": Path("out")}
    with inside(project), pytest.raises(SigmaError, match=line):
        round.run(**{**given, **changes})
