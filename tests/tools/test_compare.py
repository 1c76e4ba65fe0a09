"""`sigma compare` on metrics in a small repository."""

import json
import subprocess

import pytest

from sigma.shared.errors import SigmaError
from sigma.tools import compare

METRICS = {
    "audit": {"episodes": 3},
    "baseline": {"test": {"mse_vec": 0.5, "tau_l2": 3.0}},
    "sigma": {"test": {"mse_vec": 0.25}},
    "check_b": {"passed": True, "test": {"mse_vec": {"baseline": 0.5, "sigma": 0.25, "delta": -0.25, "p": 0.01}}},
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    write(METRICS)
    for command in ("init -q", "add -A", "-c user.email=a@example.org -c user.name=a commit -qm first"):
        subprocess.run(["git", *command.split()], check=True)
    return tmp_path


def write(metrics):
    from pathlib import Path

    for name, value in metrics.items():
        Path("metrics", f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def changed(name, *path, value):
    copy = json.loads(json.dumps(METRICS))
    node = copy[name]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    write(copy)


def agreed():
    return compare.run(revision="HEAD", frozen_tolerance=1e-3, trained_tolerance=0.1)[1]


def test_equal_metrics_agree(repository):
    assert agreed()


def test_frozen_numbers_are_held_to_the_tight_tolerance_and_trained_ones_to_the_wide_one(repository):
    changed("baseline", "test", "mse_vec", value=0.5 * 1.01)
    assert not agreed()
    changed("sigma", "test", "mse_vec", value=0.25 * 1.05)
    assert agreed()
    changed("sigma", "test", "mse_vec", value=0.25 * 1.2)
    table, within = compare.run(revision="HEAD", frozen_tolerance=1e-3, trained_tolerance=0.1)
    assert not within and "test.mse_vec" in table and "DIFFERS" in table
    # The control's factor norm in the base's file comes from trained heads.
    changed("baseline", "test", "tau_l2", value=3.0 * 1.05)
    assert agreed()


def test_a_number_that_is_gone_or_new_does_not_agree(repository):
    metrics = json.loads(json.dumps(METRICS))
    del metrics["baseline"]["test"]["mse_vec"]
    write(metrics)
    assert not agreed()


def test_unknown_revision_is_one_line(repository):
    with pytest.raises(SigmaError, match=r"metrics/audit\.json at nowhere"):
        compare.run(revision="nowhere", frozen_tolerance=1e-3, trained_tolerance=0.1)
