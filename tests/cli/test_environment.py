"""``sigma_env``: settings for what the environment does not set, and one line for a line that is none."""

import os

import pytest

from sigma.cli.environment import environment_file, read_environment
from sigma.shared.errors import SigmaError
from tests.worlds import ROOT


def test_sigma_env_fills_what_is_not_set(tmp_path, monkeypatch):
    file = tmp_path / "sigma_env"
    file.write_text("# comment\n\nSIGMA_TEST_A = one\nSIGMA_TEST_B=two=2\nSIGMA_TEST_C=\n")
    monkeypatch.setenv("SIGMA_TEST_B", "kept")
    for name in ("SIGMA_TEST_A", "SIGMA_TEST_C"):
        monkeypatch.delenv(name, raising=False)
    read_environment(file)
    assert (os.environ["SIGMA_TEST_A"], os.environ["SIGMA_TEST_B"]) == ("one", "kept")
    assert "SIGMA_TEST_C" not in os.environ
    monkeypatch.delenv("SIGMA_TEST_A")
    read_environment(tmp_path / "absent")
    for line in ("no separator", "word", "two words=1", "=1", "A-B=1", 'A="open', "A=a\0b"):
        file.write_text(f"A=1\n{line}\n")
        monkeypatch.delenv("A", raising=False)
        with pytest.raises(SigmaError, match="line 2: expected KEY=VALUE"):
            read_environment(file)
    monkeypatch.delenv("A", raising=False)


def test_quotes_and_comments_are_no_part_of_a_value(tmp_path, monkeypatch):
    monkeypatch.delenv("SIGMA_TEST_A", raising=False)
    for line in ('SIGMA_TEST_A="one two"', "SIGMA_TEST_A=one two  # three", "export SIGMA_TEST_A='one two'"):
        (tmp_path / "sigma_env").write_text(f"\n{line}\n")
        read_environment(tmp_path / "sigma_env")
        assert os.environ.pop("SIGMA_TEST_A") == "one two"


def test_an_experiments_copy_takes_the_projects_sigma_env(tmp_path, monkeypatch):
    copy = tmp_path / "project/.dvc/tmp/exps/abc"
    copy.mkdir(parents=True)
    (tmp_path / "sigma_env").write_text("SIGMA_TEST_A=stray\n")
    monkeypatch.chdir(copy)
    assert not environment_file().is_file()
    (tmp_path / "project/sigma_env").write_text("SIGMA_TEST_A=project\n")
    assert environment_file().read_text() == "SIGMA_TEST_A=project\n"
    (copy / "sigma_env").write_text("SIGMA_TEST_A=own\n")
    assert environment_file().read_text() == "SIGMA_TEST_A=own\n"
    monkeypatch.chdir(tmp_path / "project/.dvc/..")
    assert environment_file().read_text() == "SIGMA_TEST_A=project\n"


def test_the_example_of_sigma_env_is_legal(monkeypatch):
    before = dict(os.environ)
    read_environment(ROOT / "sigma_env.example")
    assert dict(os.environ) == before, "an example sets nothing"
