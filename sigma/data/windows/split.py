"""Splitting a dataset by episode, seeded and balanced over tasks."""

from collections.abc import Mapping

from sigma.data.dataset.fit import held_out_counts
from sigma.shared.seeding import generator

SPLITS = ("train", "validation", "test")


def _apportion(wanted: int, sizes: Mapping[int, int]) -> dict[int, int]:
    """Share ``wanted`` over groups in proportion to their sizes: floors, then the largest remainders."""
    total = sum(sizes.values())
    exact = {group: wanted * size / total for group, size in sizes.items()}
    shares = {group: int(value) for group, value in exact.items()}
    for group in sorted(exact, key=lambda group: (shares[group] - exact[group], group))[
        : wanted - sum(shares.values())
    ]:
        shares[group] += 1
    return shares


def split_episodes(
    task_of: Mapping[int, int], validation: int | float, test: int | float, seed: int
) -> dict[str, list[int]]:
    """Assign every episode to train, validation or test.

    ``task_of`` maps an episode's index to its task's. Counts are ints (0 for none), fractions of all episodes floats.
    Within a task the order is a seeded permutation, so that the result depends on nothing but the arguments. Raises
    :class:`SigmaError` as :func:`held_out_counts` does.
    """
    held_out = held_out_counts(validation, test, len(task_of))
    queues: dict[int, list[int]] = {}
    for task in sorted(set(task_of.values())):
        members = sorted(episode for episode in task_of if task_of[episode] == task)
        queues[task] = [members[index] for index in generator(seed, "split", task).permutation(len(members))]
    splits: dict[str, list[int]] = {}
    for name, count in held_out.items():
        shares = _apportion(count, {task: len(queue) for task, queue in queues.items()})
        splits[name] = sorted(episode for task, queue in queues.items() for episode in queue[: shares[task]])
        queues = {task: queue[shares[task] :] for task, queue in queues.items()}
    splits["train"] = sorted(episode for queue in queues.values() for episode in queue)
    return {name: splits[name] for name in SPLITS}
