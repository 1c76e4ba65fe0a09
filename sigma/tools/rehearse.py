"""``sigma rehearse``: a decision, a training step, save and reload of Sigma on random weights of a base's own sizes.

Weights made at random, in the element types that LeRobot keeps them in, stand in for a checkpoint that is not here; the
modules, their order and the memory they take are the real ones. Every tensor is made once, in its final type: there are
never two copies of the policy.
"""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sigma.parameters import Parameters

RECORD = Path("logs/rehearsal.json")


class Meter:
    """Seconds and the process's peak memory in MiB, part by part."""

    def __init__(self, report: Callable[[str], None]):
        self.parts: dict[str, dict[str, float]] = {}
        self.report = report

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure the block; the peak is that of the block alone where the kernel can forget the last one."""
        import psutil

        gc.collect()
        alone = _forget_peak()
        before, started = psutil.Process().memory_info().rss, time.perf_counter()
        yield
        seconds, peak = time.perf_counter() - started, _peak()
        self.parts[name] = {
            "seconds": round(seconds, 2),
            "peak_mib": round(peak / 2**20, 1),
            "increment_mib": round((peak - before) / 2**20, 1),
        }
        since = "" if alone else " since the start"
        self.report(f"{name}: {seconds:.1f} s, peak{since} {peak / 2**30:.2f} GiB, {(peak - before) / 2**30:+.2f} GiB")


def _forget_peak() -> bool:
    """Let the kernel begin a new high-water mark of this process's memory; False where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _return_freed_memory() -> None:
    """Have the C library give blocks over 1 MiB back when they are freed, as a device's allocator reuses them.

    By default glibc keeps freed blocks of up to 32 MiB in its heap, where they add up over the layers: the process then
    holds several times what lives, and its peak says nothing of the model. No effect on other C libraries.
    """
    import ctypes

    mmap_threshold = -3  # M_MMAP_THRESHOLD of glibc's malloc.h; setting it also stops glibc from raising it
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**20)


def _peak() -> int:
    """The high-water mark of this process's resident memory in bytes."""
    import resource

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_policy(config: Any, dtype: str, seed: int) -> Any:
    """LeRobot's policy with seeded random weights, frozen; each tensor is made once, in its final element type."""
    import torch

    from sigma.policy.pi05.weights import _fill_buffers, empty_policy

    policy = empty_policy(config, dtype)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    # Tied tensors are one tensor under two names, and stay one.
    made: dict[int, Any] = {}
    for name, hollow in policy.state_dict(keep_vars=True).items():
        if id(hollow) not in made:
            tensor = torch.empty(hollow.shape, dtype=hollow.dtype)
            if tensor.is_floating_point():
                tensor.normal_(std=0.02, generator=generator)
            made[id(hollow)] = tensor
        state[name] = made[id(hollow)]
    policy.load_state_dict(state, strict=True, assign=True)
    _fill_buffers(policy)
    policy.config.device = "cpu"
    return policy.eval().requires_grad_(False)


def run(parameters: Parameters, *, seed: int = 0, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Run every part at the sizes that ``parameters`` and their base's configuration give; returns the record.

    Writes ``logs/rehearsal.json``: seconds and memory by part, the counts, the plan's figures, and the digests of what
    was saved and came back.

    Raises:
        SigmaError: what was saved does not come back to the bit, or the base was changed by the training step.
    """
    import torch

    from sigma.policy.model import lora
    from sigma.policy.model.decision import SigmaModel
    from sigma.policy.model.heads import (
        build_heads,
        describe_heads,
        heads_file,
        load_heads,
        parameter_count,
        save_heads,
    )
    from sigma.policy.model.model_folder import base_digest
    from sigma.policy.pi05 import prefix
    from sigma.policy.pi05.base_action import deterministic_action
    from sigma.shared.errors import SigmaError
    from sigma.tools import plan
    from sigma.tools.footprint import attach_lora, build_footprint

    values: Any = parameters
    train, flow = values.train, values.base.branch == "adapted"
    config, told = plan.base_configuration(parameters)
    views = plan.views_of(config, parameters)
    _return_freed_memory()
    footprint = build_footprint(config, views, parameters, plan.joints_of(parameters))
    planned = footprint.flow_step(train.batch) if flow else footprint.residual_step(train.batch)
    sizes, meter = footprint.model.heads.sizes, Meter(report)
    report(f"rehearsal: {told}; {values.base.dtype}, {views} cameras, batch {train.batch}")

    with meter.part("build"):
        policy = random_policy(config, values.base.dtype, seed)
    with meter.part("digest of the base"):
        before = base_digest(policy)
    with meter.part("LoRA and heads"):
        adapted = attach_lora(policy, parameters, seed=seed)
        heads = build_heads(sizes, 1.0, seed)
        model = SigmaModel(adapted, heads)
    modules, count = len(lora.lora_layers(adapted)), sum(one.numel() for one in lora.lora_parameters(adapted))
    report(f"LoRA: {modules} modules, {count:,} parameters; heads: {parameter_count(heads):,} parameters")

    def decide(chosen: SigmaModel) -> Any:
        side = config.image_resolution[0]
        images = torch.rand(1, views, 3, side, side, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            vision = prefix.vision_tokens(chosen.policy, images)
            observation = replace(footprint.observation(1, seed=seed), vision=vision)
            passed = chosen.frozen_pass(observation)
            with lora.disabled(chosen.adapted):
                action = deterministic_action(
                    "zero_noise",
                    chosen.policy,
                    passed.encoded,
                    config.num_inference_steps,
                    samples=1,
                    seed=seed,
                    addresses=[("rehearsal", 0)],
                )[:, : sizes.horizon]
            return chosen(observation, action, passed=chosen.adapted_pass(observation, cache=False, frozen=passed))

    with meter.part("one decision"):
        decide(model.eval())
    with meter.part("one training step"):
        footprint.train_mode(model)
        named = [*heads.parameters(), *lora.lora_parameters(adapted)]
        optimizer = torch.optim.AdamW(named, lr=1e-3)
        observation = footprint.observation(train.batch, seed=seed)
        if flow:
            loss = footprint.flow_loss(model, observation)
        else:
            action = torch.zeros(train.batch, sizes.horizon, sizes.action_dim)
            residuals = model(observation, action).residuals
            loss = sum((residual - 1).square().mean() for residual in residuals.values())
            del residuals
        loss.backward()
        optimizer.step()
    del optimizer, observation, loss
    model.zero_grad(set_to_none=True)
    if base_digest(policy) != before:
        raise SigmaError("rehearsal: the training step changed the base's own weights")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved = _digests(adapted, heads)
        first = decide(model.eval()).residuals
        with meter.part("save"):
            lora.save(adapted, folder)
            save_heads(heads, folder)
        adapted.unload()
        del model, adapted, heads
        with meter.part("reload"):
            heads = build_heads(sizes, 1.0, seed + 1)
            load_heads(heads, heads_file(folder))
            adapted = lora.load(policy, folder)
        again = SigmaModel(adapted, heads).requires_grad_(False).eval()
        found = _digests(adapted, heads)
        second = decide(again).residuals
    same = all(torch.equal(residual, second[span]) for span, residual in first.items())
    if found != saved or not same:
        raise SigmaError("rehearsal: what was saved did not come back to the bit")
    record = {
        "base": told,
        "parameters": sum(group.parameters for group in footprint.frozen.values()),
        "lora_modules": modules,
        "lora_parameters": count,
        "heads_parameters": parameter_count(heads),
        "base_digest": before,
        "digests": saved,
        "heads": describe_heads(heads)["digest"],
        "planned_step_mib": round(planned / 2**20, 1),
        "planned_weights_mib": round(footprint.weights() / 2**20, 1),
        "parts": meter.parts,
        "key": plan.rate_key(parameters, sum(group.parameters for group in footprint.frozen.values()), views, "cpu"),
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    report(
        f"rehearsal: digests equal after reload; training step {meter.parts['one training step']['increment_mib']:.0f} "
        f"MiB measured beside {(planned + 2 * footprint.trained) / 2**20:.0f} MiB planned"
    )
    return record


def _digests(adapted: Any, heads: Any) -> dict[str, str]:
    """Digest of every LoRA tensor and of every tensor of the heads."""
    from peft.utils import get_peft_model_state_dict

    from sigma.policy.pi05.weights import tensor_digest

    tensors = {**get_peft_model_state_dict(adapted), **{f"heads.{n}": t for n, t in heads.state_dict().items()}}
    return {name: tensor_digest(tensor) for name, tensor in sorted(tensors.items())}
