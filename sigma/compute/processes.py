"""One stage on several processes, one a device: how they start, what each takes, and how they tell each other.

A command that is to run on several processes (``machine.processes``) starts them by torch's elastic launcher, the one
under `accelerate launch`, and waits; inside, accelerate opens their group, NCCL between GPUs and gloo on a CPU.

Every process runs the whole stage. Long loops are shared out: each process works on its part, and then all of them know
the whole, so they take the same steps on the same numbers, and only the first one writes. On a single process the
functions below hand back what they are given.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    import torch
    from torch import nn


# How long a process waits for the others where these take longer; one that has ended is noticed at once.
PATIENCE = timedelta(minutes=30)
# Seconds for the launcher to see which process ended, before those that miss it report that they do.
GRACE = 10.0
_RUN = "sigma"
# In the environment of the processes: whether they split the base's layers (``machine.fsdp``).
_FSDP = "SIGMA_FSDP"


def started() -> bool:
    """Whether this process is one of several that :func:`launch` started."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == _RUN


def count() -> int:
    """How many processes share the work."""
    return int(os.environ["WORLD_SIZE"]) if started() else 1


def rank() -> int:
    """The number of this process; the first, 0, is the one that writes."""
    return int(os.environ["RANK"]) if started() else 0


def to_start(processes: int) -> bool:
    """Whether this command is to start ``processes`` others, which it leaves the work to."""
    return processes > 1 and not started()


def splitting() -> bool:
    """Whether each process holds but a part of the large layers' weights, so that all make every pass together."""
    return started() and os.environ.get(_FSDP) == "1"


def launch(run: Callable[..., str], parameters: Parameters, device: "torch.device") -> str:
    """Call ``run(parameters)`` in ``machine.processes`` processes and return what the first one does.

    Progress is that of the first process; the others are silent. Where one fails, all are ended.

    Raises:
        SigmaError: there are fewer CUDA devices than processes, or a process was killed or raised this error.
    """
    import torch
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    machine = parameters.machine
    processes, gpus = machine.processes, torch.cuda.device_count()
    if device.type == "cuda" and processes > gpus:
        raise SigmaError(
            f"params.yaml: machine.processes: found {processes} with {gpus} CUDA devices; "
            f"legal: integer from 1 to {gpus}"
        )
    threads = machine.threads or max(1, torch.get_num_threads() // processes)
    environment = {"omp_num_threads": threads, _FSDP: int(machine.fsdp)}
    with tempfile.TemporaryDirectory(prefix="sigma-processes-") as logs, patch_environment(**environment):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=_RUN,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(logs, {0: Std.OUT} | dict.fromkeys(range(1, processes), Std.ALL)),
        )
        logging.disable(logging.ERROR)  # what the launcher would say at length is said in one line here
        try:
            return elastic_launch(config, _work)(run, parameters, device.type)[0]
        except ChildFailedError as error:
            raise _failure(*error.get_first_failure()) from None
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            logging.disable(logging.NOTSET)


def _work(run: Callable[..., str], parameters: Parameters, device: str) -> str:
    """What each process does: meet the others, each with a GPU of its own or on the CPU, and run."""
    from accelerate import PartialState

    try:
        # With a backend for both, what is no tensor of a GPU travels between CPUs.
        state = PartialState(
            cpu=device == "cpu", backend=None if device == "cpu" else "cuda:nccl,cpu:gloo", timeout=PATIENCE
        )
        line = run(parameters)
    except RuntimeError:
        # This may be the lack of a process that has ended, which must not hide why that one did.
        time.sleep(GRACE)
        raise
    state.destroy_process_group()
    return line


def _failure(number: int, failure: Any) -> Exception:
    """The error of the process that failed first: its own, or that it was killed."""
    if failure.exitcode < 0:
        return SigmaError(
            f"machine.processes: rank {number} was ended by {failure.signal_name()} and the others with it; run the "
            "command again: a training goes on from its last saved state"
        )
    if isinstance(failure.message, str):
        return RuntimeError(f"rank {number} ended with status {failure.exitcode}")
    message = failure.message["message"]
    if message.startswith(f"{SigmaError.__name__}: "):
        return SigmaError(message.removeprefix(f"{SigmaError.__name__}: "))
    return RuntimeError(f"rank {number}: {failure.message['extraInfo']['py_callstack']}")


def share(total: int) -> slice:
    """The consecutive part of ``total`` rows that this process takes; sizes differ by one at most."""
    return slice(total * rank() // count(), total * (rank() + 1) // count())


def local_shard[Item](items: Sequence[Item]) -> Sequence[Item]:
    """Every n-th item, of n processes: early and late items are often not equally long work.

    Where the base's layers are split, every process takes equally many: the last item again where one is missing.
    """
    own = items[rank() :: count()]
    return [*own, items[-1]] if splitting() and len(own) < -(-len(items) // count()) else own


def gather_parts[Part](parts: list[Part], total: int) -> list[Part]:
    """What the processes made of :func:`local_shard`, in the order of the ``total`` items and known to all; tensors from the
    CPU."""
    lists = all_gather(parts)
    return [lists[place % len(lists)][place // len(lists)] for place in range(total)]


def all_gather[Value](value: Value) -> list[Value]:
    """The values of all processes in their order."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def broadcast_first[Value](find: Callable[[], Value]) -> Value:
    """What ``find`` returns in the first process; the others do not call it."""
    if count() == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([None if rank() else find()])[0]


def data_parallel(module: "nn.Module") -> "nn.Module":
    """The module under DistributedDataParallel: a backward pass averages the gradients of all processes."""
    if count() == 1:
        return module
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from torch.nn.parallel import DistributedDataParallel

    # The frozen base is the same in every process by its digests; a part of it may lie on another device.
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, frozen)
    # Not every parameter is in every loss; no buffer changes in training.
    settings = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(mixed_precision="no", kwargs_handlers=[settings]).prepare_model(module, device_placement=False)


def accumulating(module: Any, last: bool) -> AbstractContextManager:
    """Inside, gradients of a :func:`data_parallel` module stay with their process; with ``last`` they are averaged."""
    return nullcontext() if last or count() == 1 else module.no_sync()


def split_layers(layers: "Iterable[nn.Module]", device: str) -> None:
    """Have each process keep an n-th of these layers' weights, if ``machine.fsdp`` asks for it (torch's FSDP).

    A layer's whole weights are on the device while it runs, forward or backward; backward, because a gradient reaches
    what the layer returned. One whose keys and values alone have a gradient must not be among them.
    """
    if not splitting():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (count(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
