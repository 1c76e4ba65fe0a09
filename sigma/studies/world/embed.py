"""``sigma embed``: copy the finished base and the recorded target episodes into the package."""

from importlib.resources import files
from pathlib import Path

LIMIT_MIB = 25


def run(*, base: Path, dataset: Path, output: Path | None = None) -> str:
    """Put ``base`` (a policy folder) and ``dataset`` (a LeRobotDataset) into ``sigma/embedded``, each whole or not.

    Both are opened first, so that nothing unusable is shipped. Raises :class:`SigmaError` where a folder does not load,
    the dataset lacks a camera of the base, or the two together exceed 25 MiB.
    """
    import shutil

    from sigma.data.dataset.dataset import open_dataset
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import atomic_directory

    base, dataset = Path(base), Path(dataset)
    output = Path(str(files("sigma"))) / "embedded" if output is None else Path(output)
    reference = describe_base(str(base), None)
    load_base(reference)
    recorded = open_dataset(dataset)
    missing = [camera for camera in reference["cameras"] if camera not in recorded.cameras]
    if missing:
        raise SigmaError(f"{dataset}: the base reads camera {missing[0]!r}, which the dataset lacks")
    # Only what the metadata names: a writer may leave empty folders and temporary images behind.
    content = {
        "base": (base, sorted(file.relative_to(base).as_posix() for file in base.rglob("*") if file.is_file())),
        "dataset": (dataset, recorded.files()),
    }
    size = sum((folder / name).stat().st_size for folder, names in content.values() for name in names)
    if size > LIMIT_MIB * 2**20:
        raise SigmaError(f"{base} and {dataset} hold {size / 2**20:.1f} MiB; the package takes at most {LIMIT_MIB} MiB")
    for target, (folder, names) in content.items():
        with atomic_directory(output / target) as temporary:
            for name in names:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, temporary / name)
    return (
        f"{output}: base {reference['digest'][:12]}, {len(recorded.episodes)} episodes with {recorded.frames} frames, "
        f"{size / 2**20:.1f} MiB"
    )
