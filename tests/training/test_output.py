"""What a training writes besides its model: curves, by DVCLive, which asks git for a commit."""

import subprocess

import pytest

from sigma.shared.errors import SigmaError
from sigma.training.output import check_repository


@pytest.mark.dvc
def test_a_repository_without_a_commit_is_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_repository()
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(SigmaError, match=r"git: .*: training curves need a commit; run `git add -A && git commit`"):
        check_repository()
