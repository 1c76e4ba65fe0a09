"""The model card of a published Sigma: what it is, what it stands on, what was measured, and what it must not do."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.tools.readme import closed_loop, control, errors, sentence

PAGES = {"base": "https://huggingface.co/", "dataset": "https://huggingface.co/datasets/"}
_TAGS = ("robotics", "lerobot", "pi05", "lora", "sigma", "vision-language-action")

_TEXT = """
# {name}

[Sigma](https://arxiv.org/abs/2512.00783) on a frozen π0.5: LoRA on its attention, and telepathy heads
(semantic memory, intent, telepathy factors) that correct the base's actions at three scales. A risk-aware adapter
decides how much of the correction is executed; at scale 0 the robot gets the base's own action, to the bit. **It is no
policy of its own: it needs the base below, with exactly the weights named there.**

{verdict}

| | |
| --- | --- |
| base | {base} |
| base's weights, as loaded | `{weights_digest}` ({dtype}) |
| dataset | {dataset} |
| robot | {joints} joints ({joint_names}) at {fps} Hz; cameras {cameras} |
| decision | {horizon} steps, read from {history} decisions {history_stride} steps apart |
| base action | `{base_action}`, branch `{branch}` |
| LoRA | rank {rank}, alpha {alpha}, {lora_parameters} parameters |
| heads | {heads_parameters} parameters, digest `{heads_digest}` |
| made with | {packages} |

## Files

A LeRobot policy folder: `config.json` names the base, the adapter's settings behind the figures below and the clamp;
`policy_preprocessor.json` and `policy_postprocessor.json` are LeRobot's; `base.json` has a digest of every tensor of
the base. In `model/` lie LoRA in PEFT's form, the heads (`sigma_telepathy_heads.safetensors`), what is needed to put
them on the base (`config.json`) and the base's tokenizer; `adapter_calibration.json` and `.safetensors` say what
ordinary corrections look like; `statistics.json` the quantiles that states and actions are normalised by, in the
robot's units.

## Use

With the package installed, LeRobot's own commands take it: `--policy.path={repository}`. From Python:

```python
import torch
from huggingface_hub import snapshot_download
from sigma import SigmaTelepathyAdapter, SigmaTelepathyVLA
from sigma.shared.files import read_json
from sigma.policy.adapter.adapter import read_calibration
from sigma.policy.pi05.base import load_base

folder = snapshot_download("{repository}", revision="<commit>")
base = load_base(read_json(f"{{folder}}/base.json"){elsewhere}, dtype="{dtype}", download=True)
sigma = SigmaTelepathyVLA.from_base(base_policy=base, lora_dir=f"{{folder}}/model", dtype=torch.{dtype})
adapter = SigmaTelepathyAdapter(
    **read_json(f"{{folder}}/config.json")["adapter"],
    calibration=read_calibration(f"{{folder}}/adapter_calibration.json"),
)
```

A base with other weights is refused by its digest.

## What was measured

{errors}

{control}

Offline replay of held-out episodes: windows paired, intervals by a bootstrap over whole episodes.
{closed_loop}
## Limits

Research only. Do not run it on a physical robot without a safety layer of your own: joint and rate limits
(`sigma.policy.adapter.limits.limit_action`), a workspace guard, and a person at the emergency stop. Not for safety-critical or
human-facing use. Offline replay is not success. What holds on this dataset need not hold on your robot, your cameras or
your instructions: an instruction far from those of the calibration shuts the correction off, a moved camera need not.

## Licence

`{license}` for what was trained here: LoRA, heads, calibration and configuration. The base, whose tokenizer is copied
in `model/tokenizer`, and the dataset have terms of their own, which apply to whoever uses them or passes them on. Cite
π0.5 / openpi (Physical Intelligence) and Sigma (Libo Wang, arXiv 2512.00783).
"""


def _code(text: str) -> str:
    """A name from data as Markdown shows it, whatever stands in it: as code, in which nothing is markup."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def origin(kind: str, record: Mapping[str, Any]) -> str:
    """A base or dataset in words: its Hub page and commit, or what a local one can be known by."""
    source, revision, digest = record["source"], record["revision"], record["digest"]
    if revision:
        return f"[{source}]({PAGES[kind]}{source}) at commit `{revision}`, digest `{digest}`"
    where = (
        "shipped with the package" if source == "embedded" else f"a local folder named {_code(source)}, not on the Hub"
    )
    return f"{where}, digest `{digest}`"


def _front_matter(config: Mapping[str, Any], license: str) -> str:
    from ruamel.yaml import YAML

    values: dict[str, Any] = {
        "library_name": "lerobot",
        "license": license,
        "pipeline_tag": "robotics",
        "tags": list(_TAGS),
    }
    if config["base"]["revision"]:
        values |= {"base_model": config["base"]["source"], "base_model_relation": "adapter"}
    if config["dataset"]["revision"]:
        values["datasets"] = [config["dataset"]["source"]]
    buffer = io.StringIO()
    YAML().dump(values, buffer)
    return f"---\n{buffer.getvalue()}---\n"


def model_card(
    repository: str,
    root: Path,
    *,
    config: Mapping[str, Any],
    lora: Mapping[str, Any],
    counts: Mapping[str, int],
    heads_digest: str,
    packages: Mapping[str, str],
    license: str,
    with_closed_loop: bool,
) -> str:
    """The card's Markdown with its front matter.

    Args:
        root: the folder that holds ``metrics/``; every figure is read from there.
        config: the model's ``config.json``, its sources free of local paths.
        lora: ``adapter_config.json``.
        counts: parameters of ``lora`` and ``heads``.
        license: an identifier of the Hub, such as ``apache-2.0``.
        with_closed_loop: whether ``metrics/rollout_sigma.json`` belongs to this model.
    """
    base, sizes = config["base"], config["sizes"]
    known = base["revision"] or base["source"] == "embedded"
    loop = f"\nClosed loop in the simulator:\n\n{closed_loop(root)}\n" if with_closed_loop else ""
    return _front_matter(config, license) + _TEXT.format(
        name=repository.split("/")[-1],
        repository=repository,
        verdict=sentence(root),
        base=origin("base", base),
        elsewhere="" if known else f' | {{"source": "<folder of {base["source"]}>"}}',
        weights_digest=config["weights_digest"],
        dtype=config["weights_dtype"],
        dataset=origin("dataset", config["dataset"]),
        joints=len(config["joint_names"]),
        joint_names=", ".join(map(_code, config["joint_names"])),
        fps=config["fps"],
        cameras=", ".join(map(_code, config["cameras"])),
        horizon=sizes["horizon"],
        history=sizes["history"],
        history_stride=config["history_stride"],
        base_action=config["base_action"],
        branch=config["branch"],
        rank=lora["r"],
        alpha=lora["lora_alpha"],
        lora_parameters=f"{counts['lora']:,}",
        heads_parameters=f"{counts['heads']:,}",
        heads_digest=heads_digest,
        packages=", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
        errors=errors(root),
        control=control(root),
        closed_loop=loop,
        license=license,
    )
