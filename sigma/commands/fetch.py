"""Copy the dataset into ``data/dataset`` and pin the base policy in ``data/base.json``."""

from pathlib import Path

from pydantic import Field

from sigma.parameters import Section

DATASET, DATASET_RECORD, BASE_RECORD = Path("data/dataset"), Path("data/dataset.json"), Path("data/base.json")


class Origin(Section):
    """Where something comes from: ``embedded``, a local folder, or a Hub id with a 40-hex revision."""

    source: str = Field(min_length=1)
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")


class FetchParameters(Section):
    dataset: Origin
    base: Origin


SECTIONS: dict[str, type[Section]] = {"fetch": FetchParameters}


def run(parameters: dict[str, Section]) -> str:
    """Write ``data/dataset/``, ``data/dataset.json`` and ``data/base.json``; returns the line to print."""
    from sigma.data.fetching import copy_dataset, describe_dataset, find_dataset
    from sigma.io import Outputs
    from sigma.policy.base import describe_base

    section: FetchParameters = parameters["fetch"]
    dataset = find_dataset(section.dataset.source, section.dataset.revision, DATASET)
    base = describe_base(section.base.source, section.base.revision, len(dataset.joint_names))
    with Outputs() as outputs:
        copy = outputs.folder(DATASET)
        copy_dataset(dataset, copy)
        record = describe_dataset(copy, section.dataset.source, section.dataset.revision)
        outputs.json(BASE_RECORD, base)
        outputs.json(DATASET_RECORD, record)
    return (
        f"fetch: {record['episodes']} episodes, {record['frames']} frames, {len(record['tasks'])} tasks "
        f"from {record['source']} ({record['digest'][:12]}); base {base['source']}"
    )
