"""Copy the dataset into ``data/dataset`` and pin the base policy in ``data/base.json``."""

from pathlib import Path

from sigma.parameters import Parameters

DATASET, DATASET_RECORD, BASE_RECORD = Path("data/dataset"), Path("data/dataset.json"), Path("data/base.json")


def run(parameters: Parameters) -> str:
    """Write ``data/dataset/``, ``data/dataset.json`` and ``data/base.json``; returns the line to print."""
    from sigma.data.dataset.fit import check_fit
    from sigma.data.dataset.origin import copy_dataset, describe_dataset, find_dataset
    from sigma.policy.pi05.description import describe_base
    from sigma.shared.files import Outputs

    section = parameters.fetch
    dataset = find_dataset(section.dataset.source, section.dataset.revision, DATASET, section.dataset.keys)
    base = describe_base(section.base.source, section.base.revision, len(dataset.joint_names), dataset.tasks)
    check_fit(dataset, base, parameters)
    with Outputs() as outputs:
        copy = outputs.folder(DATASET)
        copy_dataset(dataset, copy, section.dataset.keys)
        record = describe_dataset(copy, section.dataset.source, section.dataset.revision)
        outputs.json(BASE_RECORD, base)
        outputs.json(DATASET_RECORD, record)
    return (
        f"fetch: {record['episodes']} episodes, {record['frames']} frames, {len(record['tasks'])} tasks "
        f"from {record['source']} ({record['digest'][:12]}); base {base['source']}"
    )
