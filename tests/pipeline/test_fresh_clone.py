"""What a newcomer gets: the committed lock belongs to the committed code, parameters and results."""

from tests.imports import ROOT
from tests.projects import run


def test_in_a_fresh_clone_the_root_pipeline_is_up_to_date(tmp_path):
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(ROOT), str(clone))
    printed = run(clone, "dvc", "repro", "--dry", "--allow-missing")
    assert "Running stage" not in printed and "up to date" in printed, printed
