"""``metrics/rollout.json`` as the page reads it."""

import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import write_json
from sigma.studies.rollout.rollout_results import Kept, Paired, read_closed_loop

ARM = {"success": 0.5, "success_lo": 0.4, "success_hi": 0.6, "progress": 0.7, "episodes": 200}
PAIR = {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.001, "both": 3}


def _read(tmp_path, value):
    write_json(tmp_path / "rollout.json", value)
    return read_closed_loop(tmp_path / "rollout.json")


def test_tasks_harder_settings_and_retention_are_told_apart(tmp_path):
    kept = {"sigma": ARM | {"difference": -0.01, "difference_lo": -0.03, "difference_hi": 0.01}}
    task = {"arms": {"sigma": ARM, "base": ARM | {"success": 0.3}}, "paired": {"base": PAIR}}
    found = _read(tmp_path, {"pick_place": task, "pick_place/delay": task, "retention": {"arms": kept, "paired": {}}})
    assert list(found.tasks) == ["pick_place"] and list(found.settings) == ["pick_place/delay"]
    assert found.tasks["pick_place"].arms["base"].success == 0.3
    assert found.tasks["pick_place"].paired["base"] == Paired(0.2, 0.1, 0.3, 0.001)
    assert found.kept == {"sigma": Kept(-0.01, -0.03, 0.01)}


def test_winning_needs_more_successes_and_a_small_p():
    assert Paired(0.1, None, None, 0.049).won and Paired(-0.1, None, None, 0.049).lost
    assert not Paired(0.1, None, None, 0.05).won and not Paired(-0.1, None, None, 0.05).lost


def test_no_file_is_no_closed_loop(tmp_path):
    assert read_closed_loop(tmp_path / "rollout.json") is None


@pytest.mark.parametrize(
    "value, message",
    [
        ({"pick_place": {"sigma": ARM}}, r"pick_place\.arms is missing; run `dvc repro stages/rollout/dvc\.yaml`"),
        ({"pick_place": {"arms": {"sigma": {"success": 1}}}}, r"pick_place: key 'success_lo' is missing"),
        ({"reach": {"arms": {"sigma": ARM}, "paired": {"base": PAIR}}}, r"reach\.paired: base is not among sigma"),
        ({"retention": {"arms": {"sigma": ARM}}}, r"retention: key 'difference' is missing"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_key(tmp_path, value, message):
    with pytest.raises(SigmaError, match=message):
        _read(tmp_path, value)
