"""Copy the dataset into ``data/dataset`` and the Sigma to go on from into ``data/start``; pin the base policy."""

from pathlib import Path

from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError

DATASET, DATASET_RECORD, BASE_RECORD = Path("data/dataset"), Path("data/dataset.json"), Path("data/base.json")
START = Path("data/start")


def run(parameters: Parameters) -> str:
    """Write ``data/dataset/``, ``data/dataset.json``, ``data/start/`` and ``data/base.json``; returns the line to
    print."""
    import tempfile

    from sigma.data.dataset.fit import check_fit
    from sigma.data.dataset.joining import check_corrections, check_joins, join
    from sigma.data.dataset.origin import copy_dataset, describe_dataset, find_dataset
    from sigma.policy.model.start import copy_start
    from sigma.policy.pi05.base_origin import resolve_base
    from sigma.policy.pi05.description import describe_base
    from sigma.shared.files import Outputs

    section = parameters.fetch
    own = section.dataset
    dataset = find_dataset(own.source, own.revision, DATASET, own.keys)
    try:
        resolve_base(section.base.source, section.base.revision)
    except SigmaError as error:
        raise SigmaError(f"params.yaml: fetch.base: {error}") from None
    others = [
        find_dataset(entry.source, entry.revision, DATASET, {}, f"fetch.further.{number}")
        for number, entry in enumerate(section.further)
    ]
    tasks = [text for one in (dataset, *others) for text in one.tasks]
    base = describe_base(section.base.source, section.base.revision, len(dataset.joint_names), tasks)
    check_fit(dataset, base, parameters)
    check_corrections(dataset, "fetch.dataset.source", False)
    for number, (other, entry) in enumerate(zip(others, section.further, strict=True)):
        key = f"fetch.further.{number}.source"
        check_joins(dataset, other, key, base, parameters)
        check_corrections(other, key, entry.corrections)
    with Outputs() as outputs:
        copy_start(section.start, base, parameters, outputs.folder(START))
        copy = outputs.folder(DATASET)
        parts = [copy]
        if others:
            made = Path(outputs.enter_context(tempfile.TemporaryDirectory(prefix=".joined.", dir=copy.parent)))
            parts = [made / str(number) for number in range(1 + len(others))]
        copy_dataset(dataset, parts[0], own.keys)
        further = []
        for folder, other, entry in zip(parts[1:], others, section.further, strict=True):
            copy_dataset(other, folder, {})
            record = describe_dataset(folder, entry.source, entry.revision)
            kept = {key: record[key] for key in ("source", "revision", "digest", "episodes")}
            further.append(kept | {"corrections": entry.corrections})
        if others:
            join(parts, copy)
        record = describe_dataset(copy, own.source, own.revision) | {"further": further}
        outputs.json(BASE_RECORD, base)
        outputs.json(DATASET_RECORD, record)
    trained = sum(entry["episodes"] for entry in further)
    return (
        f"fetch: {record['episodes']} episodes, {record['frames']} frames, {len(record['tasks'])} tasks "
        f"from {record['source']} ({record['digest'][:12]}); base {base['source']}"
        + (f"; the last {trained} episodes come from fetch.further" if further else "")
    )
