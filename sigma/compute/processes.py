"""One stage on several processes, one process a device: launching, sharding of work, and collectives.

A command that uses several processes (``machine.processes``) starts them with torch's elastic launcher, which is also
the one of ``accelerate launch``, and waits for them. Each process joins one process group: NCCL on GPUs, gloo on CPUs.

Every process (rank) runs the whole stage. A long loop is sharded: each rank works on its shard, and the results are
gathered on all ranks, so all of them continue with the same numbers. Only rank 0 writes files. With a single process
the collectives below return what they are given.
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


# Time limit of a collective in which the other ranks are slower. A rank that has ended is noticed at once.
PATIENCE = timedelta(minutes=30)
# Seconds that a rank waits before it reports a failed collective: the launcher must first see which other rank ended.
GRACE = 10.0
_RUN = "sigma"
# Environment variable that tells the processes whether to split the base's layers (``machine.fsdp``).
_FSDP = "SIGMA_FSDP"


def started() -> bool:
    """Whether this process is one of several that :func:`launch` started."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == _RUN


def count() -> int:
    """The number of processes that share the work (the world size)."""
    return int(os.environ["WORLD_SIZE"]) if started() else 1


def rank() -> int:
    """The rank of this process; rank 0 writes the files."""
    return int(os.environ["RANK"]) if started() else 0


def to_start(processes: int) -> bool:
    """Whether this process must start ``processes`` others, which then do the work."""
    return processes > 1 and not started()


def splitting() -> bool:
    """Whether each rank holds only a shard of the large layers' weights, so that all ranks must run every pass."""
    return started() and os.environ.get(_FSDP) == "1"


def launch(run: Callable[[Parameters], str], parameters: Parameters, device: "torch.device") -> str:
    """Call ``run(parameters)`` in ``machine.processes`` processes and return the result of rank 0.

    Only rank 0 shows its progress. When one rank fails, all are ended.

    Raises:
        SigmaError: there are fewer CUDA devices than processes, or a process was killed or raised this error.
        RuntimeError: a process failed with any other error; the message holds its traceback.
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
        logging.disable(logging.ERROR)  # the launcher would log pages; _failure makes one line of them
        try:
            return elastic_launch(config, _work)(run, parameters, device.type)[0]
        except ChildFailedError as error:
            raise _failure(*error.get_first_failure()) from None
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            logging.disable(logging.NOTSET)


def _work(run: Callable[[Parameters], str], parameters: Parameters, device: str) -> str:
    """In each process: join the process group, on a GPU of its own or on the CPU, and run."""
    from accelerate import PartialState

    try:
        # Collectives of Python objects and CPU tensors need gloo beside NCCL.
        state = PartialState(
            cpu=device == "cpu", backend=None if device == "cpu" else "cuda:nccl,cpu:gloo", timeout=PATIENCE
        )
        line = run(parameters)
    except RuntimeError:
        # A collective fails because another rank ended: that rank's error must be reported first.
        time.sleep(GRACE)
        raise
    state.destroy_process_group()
    return line


def _failure(number: int, failure: Any) -> Exception:
    """The error of the rank ``number``, which failed first: the one it raised, or that it was killed.

    ``failure`` is the launcher's ``ProcessFailure``, whose exit code is the negative signal of a killed process.
    """
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
    """This rank's contiguous shard of ``total`` rows; shard sizes differ by at most one."""
    return slice(total * rank() // count(), total * (rank() + 1) // count())


def local_shard[Item](items: Sequence[Item]) -> Sequence[Item]:
    """This rank's interleaved shard, every n-th item of n ranks: early and late items often differ in cost.

    Where the base's layers are split, all ranks must run equally many passes, so a shorter shard repeats the last item.
    """
    shard = items[rank() :: count()]
    longest = -(-len(items) // count())
    return [*shard, items[-1]] if splitting() and len(shard) < longest else shard


def gather_parts[Part](parts: list[Part], total: int) -> list[Part]:
    """All-gather the results of every rank's :func:`local_shard` and put them in the order of the ``total`` items.

    Tensors among the results must be on the CPU.
    """
    shards = all_gather(parts)
    return [shards[index % len(shards)][index // len(shards)] for index in range(total)]


def all_gather[Value](value: Value) -> list[Value]:
    """All-gather of a picklable object: the values of all ranks, in rank order, on every rank."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def broadcast_first[Value](find: Callable[[], Value]) -> Value:
    """Call ``find`` on rank 0 only and broadcast its picklable result to every rank."""
    if count() == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([None if rank() else find()])[0]


def data_parallel(module: "nn.Module") -> "nn.Module":
    """Wrap the module in DistributedDataParallel: a backward pass all-reduces gradients to their mean over ranks."""
    if count() == 1:
        return module
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from torch.nn.parallel import DistributedDataParallel

    # DDP would broadcast every parameter from rank 0. The frozen base needs none: its digests say that it is the same
    # on every rank, and a part of it may be on another device.
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, frozen)
    # Some losses do not use every parameter; no buffer changes in training.
    settings = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(mixed_precision="no", kwargs_handlers=[settings]).prepare_model(module, device_placement=False)


def accumulating(module: Any, last: bool) -> AbstractContextManager:
    """A context for gradient accumulation: only the ``last`` backward pass all-reduces a :func:`data_parallel` module.

    The others keep their gradients on their rank (DistributedDataParallel's ``no_sync``).
    """
    return nullcontext() if last or count() == 1 else module.no_sync()


def split_layers(layers: "Iterable[nn.Module]", device: str) -> None:
    """Shard these layers' weights over the ranks with torch's FSDP2 (``fully_shard``), if ``machine.fsdp`` asks for it.

    A layer's weights are all-gathered for its forward and its backward pass and freed after each. FSDP hooks the
    backward pass at the gradient of the layer's output, so a layer of which only keys and values receive a gradient
    must not be among them.
    """
    if not splitting():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (count(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
