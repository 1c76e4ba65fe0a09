"""Shared by all tests: threads, offline mode, tiers, and what happens where nothing can be rendered."""

import ctypes.util
import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

pytest_plugins = ["tests.worlds"]


def pytest_collection_finish():
    """What has been imported stays to the end: without this, every full collection of garbage walks all of it."""
    gc.collect()
    gc.freeze()


# Tests of these folders carry the marker that keeps them out of `make test-fast`.
TIERS = {"tests/pipeline/": "dvc", "tests/simulation/": "simulator"}


def pytest_collection_modifyitems(items):
    for item in items:
        for folder, marker in TIERS.items():
            if item.nodeid.startswith(folder):
                item.add_marker(marker)
    if ctypes.util.find_library("OSMesa"):
        return
    if os.environ.get("SIGMA_REQUIRE_GL"):
        raise pytest.UsageError("no off-screen GL library: install libosmesa6")
    skip = pytest.mark.skip(reason="no off-screen GL library: install libosmesa6")
    for item in items:
        if "render" in item.keywords:
            item.add_marker(skip)
