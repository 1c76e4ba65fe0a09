"""Only a base and a dataset that load are shipped, and never half of them."""

import numpy as np
import pytest

from sigma.data.dataset.dataset import open_dataset
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.studies.world import embed
from tests.bases import write_tiny_base
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("recorded") / "data", lengths=(12, 10), size=(32, 32))


def test_base_and_dataset_are_copied_and_load(tmp_path, dataset):
    base = write_tiny_base(tmp_path / "trained")
    (dataset / "images").mkdir(exist_ok=True)
    line = embed.run(base=base, dataset=dataset, output=tmp_path / "package")
    assert not (tmp_path / "package" / "dataset" / "images").exists()
    assert "2 episodes with 22 frames" in line
    copied = describe_base(str(tmp_path / "package" / "base"), None)
    assert copied["digest"] == describe_base(str(base), None)["digest"]
    assert open_dataset(tmp_path / "package" / "dataset").frames == 22


def test_a_broken_base_leaves_the_shipped_one_in_place(tmp_path, dataset):
    package = tmp_path / "package"
    embed.run(base=write_tiny_base(tmp_path / "first"), dataset=dataset, output=package)
    before = describe_base(str(package / "base"), None)["digest"]
    broken = write_tiny_base(tmp_path / "second", seed=1)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(SigmaError, match="not readable as safetensors"):
        embed.run(base=broken, dataset=dataset, output=package)
    assert describe_base(str(package / "base"), None)["digest"] == before
    assert sorted(item.name for item in package.iterdir()) == ["base", "dataset"]


def test_a_dataset_without_the_bases_cameras_is_refused(tmp_path):
    other = write_dataset(tmp_path / "data", lengths=(12,), size=(32, 32), cameras=("observation.images.side",))
    with pytest.raises(SigmaError, match=r"observation\.images\.up.*lacks"):
        embed.run(base=write_tiny_base(tmp_path / "base"), dataset=other, output=tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_too_large_a_package_is_refused(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(embed, "LIMIT_MIB", 0.01)
    base = write_tiny_base(tmp_path / "base")
    (base / "ballast.bin").write_bytes(np.zeros(20_000, np.uint8).tobytes())
    with pytest.raises(SigmaError, match="takes at most"):
        embed.run(base=base, dataset=dataset, output=tmp_path / "package")
