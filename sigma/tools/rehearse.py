"""``sigma rehearse``: a decision, a training step, save and reload of Sigma on random weights of a base's own sizes.

Random weights, in the element types that LeRobot keeps them in, stand in for a checkpoint that is not here; the
modules, their order and the memory they take are the real ones.
"""

import ctypes
import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from sigma.parameters import Parameters
from sigma.policy.model import heads, lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.model_folder import base_digest
from sigma.policy.pi05.weights import _fill_buffers, empty_policy, tensor_digest
from sigma.shared.errors import SigmaError
from sigma.shared.files import write_json
from sigma.tools import plan
from sigma.tools.workload import Workload

MIB = 2**20
Parts = dict[str, dict[str, float]]


@contextmanager
def measured(name: str, parts: Parts, report: Callable[[str], None]) -> Iterator[None]:
    """Add the block's seconds and the process's peak memory in MiB to ``parts``, and report them.

    The peak is that of the block alone where the kernel can forget the last one.
    """
    gc.collect()
    since = " since the start"
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: begin a new high-water mark
        since = ""
    before, started = psutil.Process().memory_info().rss / MIB, time.perf_counter()
    yield
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    increment = peak - before
    parts[name] = {"seconds": round(seconds, 2), "peak_mib": round(peak, 1), "increment_mib": round(increment, 1)}
    report(f"{name}: {seconds:.1f} s, peak{since} {peak / 1024:.2f} GiB, {increment / 1024:+.2f} GiB")


def _return_freed_memory() -> None:
    """Have glibc give blocks over 1 MiB back when they are freed, as a device's allocator reuses them.

    By default it keeps freed blocks of up to 32 MiB, which add up over the layers: the process then holds several times
    what lives, and its peak says nothing of the model. No effect on other C libraries.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of glibc's malloc.h; setting it also stops glibc from raising it
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(mmap_threshold, MIB)


def random_policy(config: PI05Config, dtype: str, seed: int) -> PI05Policy:
    """LeRobot's policy with seeded random weights, frozen; each tensor is made once, in its final element type."""
    policy = empty_policy(config, dtype)
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.zeros(hollow.shape, dtype=hollow.dtype) for name, hollow in policy.state_dict().items()}
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.normal_(std=0.02, generator=generator)
    policy.load_state_dict(state, strict=True, assign=True)
    _fill_buffers(policy)
    policy.config.device = "cpu"
    return policy.eval().requires_grad_(False)


def run(parameters: Parameters, *, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Run every part at the sizes that ``parameters`` and their base's configuration give; returns the record.

    Writes ``logs/rehearsal.json``: seconds and memory by part, the counts, and the planned memory of a training step.

    Raises:
        SigmaError: what was saved does not come back to the bit, or the base was changed by the training step.
    """
    origin, _, footprint = plan.sigma_here(parameters)
    config, batch = footprint.work.config, parameters.train.batch
    planned = footprint.peak(footprint.work.training_step(batch), batch) / MIB
    report(f"rehearsal: {origin}; {parameters.base.dtype}, {footprint.work.views} cameras, batch {batch}")
    _return_freed_memory()
    parts: Parts = {}

    with measured("build", parts, report):
        policy = random_policy(config, parameters.base.dtype, seed=0)
    with measured("digest of the base", parts, report):
        digest = base_digest(policy)
    with measured("LoRA and heads", parts, report):
        work = Workload(policy, parameters, footprint.work.reads)
    counts = {
        "lora_modules": len(lora.lora_layers(policy)),
        "lora_parameters": sum(parameter.numel() for parameter in lora.lora_parameters(policy)),
        "heads_parameters": sum(parameter.numel() for parameter in work.model.heads.parameters()),
    }
    report("; ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in counts.items()))
    decision = work.sigma_decision(1, 1, steps=config.num_inference_steps)
    with measured("one decision", parts, report):
        work.vision(1)
        decision()
    with measured("one training step", parts, report):
        optimizer = torch.optim.AdamW([*work.model.heads.parameters(), *lora.lora_parameters(policy)], lr=1e-3)
        work.training_step(batch)()
        optimizer.step()
    del optimizer
    work.model.zero_grad(set_to_none=True)
    if base_digest(policy) != digest:
        raise SigmaError("rehearsal: the training step changed the base's own weights")

    saved, action = _digests(work.model), decision()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with measured("save", parts, report):
            lora.save(work.model.adapted, folder)
            heads.save_heads(work.model.heads, folder)
        work.model.adapted.unload()
        del work.model
        with measured("reload", parts, report):
            loaded = heads.build_heads(work.sizes, 1.0, seed=1)
            heads.load_heads(loaded, heads.heads_file(folder))
            work.model = SigmaModel(lora.load(policy, folder), loaded)
    if _digests(work.model) != saved or not torch.equal(decision(), action):
        raise SigmaError("rehearsal: what was saved did not come back to the bit")
    record = {
        "base": origin,
        **counts,
        "planned_step_mib": round(planned, 1),
        "parts": parts,
        "key": plan.rate_key(parameters, footprint, "cpu"),
    }
    write_json(plan.REHEARSAL, record)
    # The optimizer's two moments are made in the measured step, and are no part of the planned one.
    report(
        f"rehearsal: digests equal after reload; training step {parts['one training step']['increment_mib']:.0f} "
        f"MiB measured beside {planned + plan.MOMENTS * footprint.trained / MIB:.0f} MiB planned"
    )
    return record


def _digests(model: SigmaModel) -> list[str]:
    """The digest of every tensor of LoRA and of the heads."""
    return [tensor_digest(tensor) for tensor in (*lora.lora_parameters(model), *model.heads.state_dict().values())]
