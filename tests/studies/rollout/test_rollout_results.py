"""``metrics/rollout.json`` as the page reads it."""

import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import write_json
from sigma.studies.rollout.rollout_results import read_closed_loop

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
    assert (found.tasks["pick_place"], found.kept) == (task, kept)


def test_no_file_is_no_closed_loop(tmp_path):
    assert read_closed_loop(tmp_path / "rollout.json") is None


@pytest.mark.parametrize(
    "value, message",
    [
        ([], r"rollout\.json: expected a mapping, found list; run `dvc repro stages/rollout/dvc\.yaml`"),
        (
            {"pick_place": {"sigma": ARM}},
            r"key 'pick_place\.arms' is missing; run `dvc repro stages/rollout/dvc\.yaml`",
        ),
        ({"pick_place": {"arms": {"sigma": {}}}}, r"key 'pick_place\.arms\.sigma\.episodes' is missing"),
        ({"pick_place": {"arms": {"sigma": ARM | {"success": "1"}}}}, r"arms\.sigma\.success: expected a number"),
        ({"retention": {"arms": {"sigma": ARM}}}, r"key 'retention\.arms\.sigma\.difference' is missing"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_key(tmp_path, value, message):
    with pytest.raises(SigmaError, match=message):
        _read(tmp_path, value)
