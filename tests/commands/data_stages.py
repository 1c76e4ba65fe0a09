"""Running the three data stages in a test: shipped parameters with changes, in the current directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.parameters import Parameters, read_parameters, read_yaml
from sigma.shared.files import write_json
from tests.datasets import CAMERAS

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with dotted keys replaced, e.g. ``{"window.seed": 3}``."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for name, value in changes.items():
        *path, last = name.split(".")
        node = merged
        for part in path:
            node[part] = dict(node[part])
            node = node[part]
        node[last] = value
    return merged


def write_base_record(**changes: Any) -> None:
    """``data/base.json`` of a base that sees the cameras of the small dataset."""
    sizes = {"resolution": 32, "state_dim": 6, "action_dim": 6, "chunk_size": 16, "num_steps": 10}
    origin = {"source": "base", "revision": None, "digest": "0" * 64}
    quantiles = {"q01": [-1.0] * 6, "q99": [1.0] * 6}
    statistics = dict.fromkeys(("observation.state", "action"), quantiles)
    record = origin | sizes | {"cameras": list(CAMERAS), "statistics": statistics, "tensors": {}}
    write_json(Path("data/base.json"), record | changes)


def write_dataset_record() -> None:
    """``data/dataset.json`` of a dataset of eight episodes that nothing was joined to."""
    record = {"source": "dataset", "revision": None, "digest": "0" * 64, "episodes": 8, "further": []}
    write_json(Path("data/dataset.json"), record)


def parameters(dataset: Path | None = None, base: Path | None = None, **changes: Any) -> Parameters:
    """The shipped sections of the data stages, for a small dataset; ``window__seed=3`` changes ``window.seed``."""
    shipped = read_yaml(SHIPPED)
    small = {"window.validation": 2, "window.test": 2, "machine.workers": 1}
    if dataset is not None:
        small["fetch.dataset.source"] = str(dataset)
    if base is not None:
        small["fetch.base.source"] = str(base)
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return read_parameters(Path("params.yaml"), merge(shipped, small | dotted))
