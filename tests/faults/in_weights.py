"""Faults in weights: the base's, the adapter's, the heads', and what belongs to them."""

import json
import shutil
from collections.abc import Callable
from typing import Any

from tests.faults.case import Fault, Project, content, cut, flip, gone, json_with, json_without, together
from tests.worlds import inside

BASE, RECORD = "base/model.safetensors", "data/base.json"
MODEL, CONFIG = "models/sigma", "models/sigma/config.json"
LORA, HEADS = f"{MODEL}/adapter_model.safetensors", f"{MODEL}/sigma_telepathy_heads.safetensors"
FEATURES = "data/features/features.safetensors"
STATISTICS = "base/policy_preprocessor_step_2_normalizer_processor.safetensors"
BIAS = "model.action_out_proj.bias"
LAYER = "base_model.model.model.paligemma_with_expert.paligemma.model.language_model.layers.0"
RANK = f"{LAYER}.self_attn.k_proj.lora_B.weight"
GAIN = "film.log_gain"

Tensors = dict[str, Any]


def tensors(name: str, change: Callable[[Tensors], Any]) -> Callable[[Project], None]:
    """A safetensors file whose tensors went through ``change``."""

    def inject(project: Project) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(project.path(name))
        change(held)
        save_file({key: value.contiguous() for key, value in held.items()}, project.path(name), {"format": "pt"})

    return inject


def renamed(key: str, other: str) -> Callable[[Tensors], None]:
    return lambda held: held.update({other: held.pop(key)})


def extra(key: str, like: str) -> Callable[[Tensors], None]:
    return lambda held: held.update({key: held[like].clone()})


def lost(key: str) -> Callable[[Tensors], Any]:
    return lambda held: held.pop(key)


def shorter(key: str) -> Callable[[Tensors], None]:
    return lambda held: held.update({key: held[key][:-1].clone()})


def not_a_number(key: str) -> Callable[[Tensors], Any]:
    return lambda held: held[key].view(-1)[:1].fill_(float("nan"))


def without_statistics(project: Project) -> None:
    def change(saved: dict[str, Any]) -> None:
        for step in saved["steps"]:
            step.pop("state_file", None)

    project.json("base/policy_preprocessor.json", change)


def recorded(project: Project) -> None:
    """The base is fetched as it is now."""
    from sigma.policy.pi05.description import describe_base
    from sigma.shared.files import write_json

    with inside(project.root):
        write_json(project.path(RECORD), describe_base("base", None))


def fetched_with(change: Callable[[Tensors], Any]) -> Callable[[Project], None]:
    return together(tensors(BASE, change), recorded)


def another_base(project: Project) -> None:
    """Another policy of the same form, and a baseline of it: everything but the model is of that base."""
    from sigma.commands import baseline
    from sigma.parameters import read_parameters
    from tests.bases import write_tiny_base

    shutil.rmtree(project.path("base"))
    write_tiny_base(project.path("base"), seed=1)
    recorded(project)
    with inside(project.root):
        baseline.run(read_parameters())


def vocabulary(place: str, words: int) -> Callable[[Project], None]:
    """A tokenizer that knows ``words`` words."""

    def inject(project: Project) -> None:
        def change(data: Any) -> None:
            known = {token: index for token, index in data["model"]["vocab"].items() if index < words}
            data["model"]["vocab"] = known | {f"word{index}": index for index in range(len(known), words)}

        project.json(f"{place}/tokenizer.json", change)

    return inject


def tokenizer_named(source: str) -> Callable[[Project], None]:
    """A pre-processor with LeRobot's own tokenizer step, which names where its tokenizer is."""

    def inject(project: Project) -> None:
        step = {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": source}}
        project.json("base/policy_preprocessor.json", lambda data: data["steps"].append(step))

    return inject


def quantile(name: str, value: float) -> Callable[[Tensors], Any]:
    return lambda held: held[name][1:2].fill_(value)


def wider_heads(project: Project) -> None:
    """Heads that were built with other sizes, as another training has them."""
    from sigma.policy.model.heads import build_heads, save_heads
    from sigma.policy.model.sizes import TelepathySizes

    config = json.loads(project.path(CONFIG).read_text())
    sizes = TelepathySizes.from_dict(config["sizes"] | {"inner": 32}, CONFIG)
    save_heads(build_heads(sizes, config["token_rms"], seed=0), project.path(MODEL))


def features_of(change: Callable[[Tensors], Any]) -> Callable[[Project], None]:
    return tensors(FEATURES, change)


FAULTS = [
    Fault("base: no weights", "fetch", gone(BASE), f"{BASE}: not found; a base is a LeRobot folder with …"),
    Fault("base: truncated", "fetch", cut(BASE), f"{BASE}: not readable as safetensors (…)"),
    Fault("base: empty", "fetch", content(BASE, b""), f"{BASE}: not readable as safetensors (…)"),
    Fault(
        "base: one bit flipped since it was fetched",
        "baseline",
        flip(BASE),
        f"{BASE}: tensor … is not the one that was recorded; fetch the base again",
    ),
    Fault("base: a tensor is missing", "baseline", fetched_with(lost(BIAS)), f"{BASE}: 1 tensors are missing: {BIAS}"),
    Fault(
        "base: a tensor too many",
        "baseline",
        fetched_with(extra("model.third_arm.weight", BIAS)),
        f"{BASE}: 1 tensors have no place in pi05_small: model.third_arm.weight",
    ),
    Fault(
        "base: a tensor renamed",
        "baseline",
        fetched_with(renamed(BIAS, "model.action_exit.bias")),
        f"{BASE}: 1 tensors are missing: {BIAS}",
    ),
    Fault(
        "base: a tensor of another shape",
        "baseline",
        fetched_with(shorter(BIAS)),
        f"{BASE}: tensor {BIAS} has shape (5,); config.json asks for (6,)",
    ),
    Fault(
        "base: NaN",
        "baseline",
        fetched_with(not_a_number(BIAS)),
        f"{BASE}: tensor {BIAS} holds values that are not finite",
    ),
    Fault(
        "base: no config.json",
        "fetch",
        gone("base/config.json"),
        "params.yaml: fetch.base: base/config.json: not found; a base is a LeRobot policy folder",
    ),
    Fault(
        "base: another policy",
        "fetch",
        json_with("base/config.json", "type", "act"),
        "base/config.json: type is 'act'; legal: pi05, pi05_small",
    ),
    Fault(
        "base: a word for a size",
        "fetch",
        json_with("base/config.json", "chunk_size", "long"),
        "base/config.json: not a pi05_small configuration (…)",
    ),
    Fault(
        "base: relative actions",
        "fetch",
        json_with("base/config.json", "use_relative_actions", True),
        "base/config.json: use_relative_actions is true; …; legal: false",
    ),
    Fault(
        "base: LoRA without its base",
        "fetch",
        content("base/adapter_config.json", "{}"),
        "base: LoRA without the base that it was trained on; …: sigma merge base --output base-merged",
    ),
    Fault(
        "base: LeRobot's own memory is switched on",
        "fetch",
        json_with("base/config.json", "use_visual_memory", True),
        "base/config.json: use_visual_memory is True; …; legal: a base that was trained without it",
    ),
    Fault(
        "base: a normalisation that Sigma does not know",
        "fetch",
        json_with("base/config.json", "normalization_mapping.STATE", "MIN_MAX"),
        "base/config.json: normalization_mapping.STATE is MIN_MAX; legal: QUANTILES, MEAN_STD, …",
    ),
    Fault(
        "base: a normalisation that was changed by hand",
        "fetch",
        json_with("base/config.json", "normalization_mapping.STATE", "MEAN_STD"),
        "base/policy_preprocessor.json: norm_map.STATE is QUANTILES, but config.json has MEAN_STD; legal: …",
    ),
    Fault(
        "base: a tokenizer of another machine",
        "fetch",
        together(gone("base/tokenizer"), tokenizer_named("/home/me/words")),
        "base/policy_preprocessor.json: tokenizer_name: no tokenizer.json in '/home/me/words'; copy …",
    ),
    Fault(
        "base: configuration changed since it was fetched",
        "baseline",
        json_with("base/config.json", "num_inference_steps", 7),
        "base: its num_steps is not the one that was recorded; fetch the base again (dvc repro)",
    ),
    Fault(
        "base: a tokenizer of more words than the policy embeds",
        "fetch",
        vocabulary("base/tokenizer", 5000),
        "base: the tokenizer has 5000 tokens, the policy embeds …",
    ),
    Fault(
        "base: a tokenizer of another vocabulary",
        "baseline",
        vocabulary("base/tokenizer", 400),
        "base: its tokenizer is not the one that was recorded; fetch the base again (dvc repro)",
    ),
    Fault(
        "base: a tokenizer that is cut off",
        "fetch",
        cut("base/tokenizer/tokenizer.json"),
        "base/tokenizer: not readable as a tokenizer (…)",
    ),
    Fault(
        "base: no tokenizer",
        "fetch",
        gone("base/tokenizer"),
        "base: no tokenizer folder, and policy_preprocessor.json names none",
    ),
    Fault(
        "base: published without statistics, which base.statistics asks for",
        "fetch",
        without_statistics,
        "params.yaml: base.statistics: found checkpoint, but the base was published without …; legal here: dataset",
    ),
    Fault("base: no statistics", "fetch", gone(STATISTICS), f"{STATISTICS}: not readable as safetensors (…)"),
    Fault(
        "base: a quantile that is no number",
        "fetch",
        tensors(STATISTICS, quantile("action.q01", float("nan"))),
        f"{STATISTICS}: action: quantiles hold a value that is not finite",
    ),
    Fault(
        "base: quantiles in the wrong order",
        "fetch",
        tensors(STATISTICS, quantile("action.q01", 1e6)),
        f"{STATISTICS}: action: quantiles: q99 lies below q01 in dimension 1",
    ),
    Fault(
        "base: statistics in which a joint never moves",
        "fetch",
        tensors(STATISTICS, lambda held: held["action.q01"][1:2].copy_(held["action.q99"][1:2])),
        "params.yaml: base.statistics: found checkpoint, in which action of joint 'shoulder_lift.pos' never moves; …",
    ),
    Fault(
        "base: a pre-processor without steps",
        "fetch",
        content("base/policy_preprocessor.json", "{}"),
        "base/policy_preprocessor.json: key 'steps' is missing; …",
    ),
    Fault("base.json is cut off", "baseline", cut(RECORD), f"{RECORD}: not readable as JSON (…)"),
    Fault(
        "base.json without the digest",
        "baseline",
        json_without(RECORD, "digest"),
        f"{RECORD}: key 'digest' is missing; …",
    ),
    Fault("base.json is a list", "evaluate", content(RECORD, "[]"), f"{RECORD}: expected a mapping, found list; …"),
    Fault("features are truncated", "evaluate", cut(FEATURES), f"{FEATURES}: not readable (…)"),
    Fault(
        "features of another name",
        "evaluate",
        features_of(renamed("pooled", "spooled")),
        f"{FEATURES}: tensor 'pooled' is missing; run `dvc repro baseline`",
    ),
    Fault(
        "features of another width",
        "finetune",
        features_of(lambda held: held.update(pooled=held["pooled"][..., :-1])),
        f"{FEATURES}: pooled has shape (58, 4, 23), meta.json says (58, 4, 24); run `dvc repro baseline`",
    ),
    Fault(
        "features that are no number",
        "finetune",
        features_of(not_a_number("pooled")),
        f"{FEATURES}: pooled holds a non-finite number or other frames; run `dvc repro baseline`",
    ),
    Fault(
        "features of fewer pictures",
        "finetune",
        features_of(lambda held: held.update(views=held["views"][1:])),
        f"{FEATURES}: views holds a non-finite number or other frames; run `dvc repro baseline`",
    ),
    Fault(
        "features without a seed",
        "evaluate",
        json_without("data/features/meta.json", "seed"),
        "data/features/meta.json: key 'seed' is missing; …",
    ),
    Fault(
        "features of another base",
        "evaluate",
        json_with("data/features/meta.json", "base_digest", "0" * 64),
        "data/features: made with another base than data/base.json; run `dvc repro baseline`",
    ),
    Fault("no model", "evaluate", gone(MODEL), f"{CONFIG}: not found; run the stage that writes it (dvc repro)"),
    Fault(
        "the model of another base",
        "evaluate",
        another_base,
        f"{MODEL}: trained on another dataset or base than data/ holds; run `dvc repro`",
    ),
    Fault(
        "the model of another dataset",
        "evaluate",
        json_with(CONFIG, "dataset.digest", "0" * 64),
        f"{MODEL}: trained on another dataset or base than data/ holds; run `dvc repro`",
    ),
    Fault(
        "the model of a newer version",
        "evaluate",
        json_with(CONFIG, "format_version", 4),
        f"{CONFIG}: format_version: found 4; legal: 3",
    ),
    Fault(
        "a model of the first version",
        "evaluate",
        json_with(CONFIG, "format_version", 2),
        f"{CONFIG}: format_version: found 2; legal: 3",
    ),
    Fault(
        "the model without a key",
        "evaluate",
        json_without(CONFIG, "num_steps"),
        f"{CONFIG}: key 'num_steps' is missing; run finetune again",
    ),
    Fault(
        "the model with a word for a size",
        "evaluate",
        json_with(CONFIG, "sizes.width", "wide"),
        f"{CONFIG}: heads: width: input should be a valid integer, found 'wide'",
    ),
    Fault(
        "the model with an unknown size",
        "evaluate",
        json_with(CONFIG, "sizes.depth", 2),
        f"{CONFIG}: heads: key 'depth' is missing or unknown; …",
    ),
    Fault(
        "adapter: a tensor is missing",
        "evaluate",
        tensors(LORA, lost(RANK)),
        f"{LORA}: tensor {RANK} is missing; the file was made for another base or rank",
    ),
    Fault(
        "adapter: a tensor too many",
        "evaluate",
        tensors(LORA, extra("another.lora_B.weight", RANK)),
        f"{LORA}: tensor another.lora_B.weight is unknown; the file was made for another base or rank",
    ),
    Fault(
        "adapter: a tensor renamed",
        "evaluate",
        tensors(LORA, renamed(RANK, "another.lora_B.weight")),
        f"{LORA}: tensor another.lora_B.weight is unknown; the file was made for another base or rank",
    ),
    Fault(
        "adapter: a tensor of another shape",
        "evaluate",
        tensors(LORA, shorter(RANK)),
        f"{LORA}: tensor {RANK} has shape (3, 2), expected (4, 2)",
    ),
    Fault(
        "adapter: NaN",
        "evaluate",
        tensors(LORA, not_a_number(RANK)),
        f"{LORA}: tensor {RANK} holds a non-finite number",
    ),
    Fault("adapter: truncated", "evaluate", cut(LORA), f"{LORA}: not a plain file of tensors (…)"),
    Fault("adapter: missing", "evaluate", gone(LORA), f"{LORA}: not found; …"),
    Fault(
        "adapter: another rank in its configuration",
        "evaluate",
        json_with(f"{MODEL}/adapter_config.json", "r", 3),
        f"{LORA}: tensor … has shape …, expected …",
    ),
    Fault(
        "adapter: a configuration that is not JSON",
        "evaluate",
        content(f"{MODEL}/adapter_config.json", "{"),
        f"{MODEL}/adapter_config.json: not readable as JSON (…)",
    ),
    Fault(
        "heads: missing",
        "evaluate",
        gone(HEADS),
        f"{HEADS}: not found; run `dvc repro` or give the file that finetune wrote",
    ),
    Fault("heads: truncated", "evaluate", cut(HEADS), f"{HEADS}: not a plain file of tensors (…)"),
    Fault(
        "heads: a tensor is missing",
        "evaluate",
        tensors(HEADS, lost(GAIN)),
        f"{HEADS}: tensor {GAIN} is missing; the file was made for other sizes",
    ),
    Fault(
        "heads: a tensor too many",
        "evaluate",
        tensors(HEADS, extra("film.third_gain", GAIN)),
        f"{HEADS}: tensor film.third_gain is unknown; the file was made for other sizes",
    ),
    Fault(
        "heads: a tensor renamed",
        "evaluate",
        tensors(HEADS, renamed(GAIN, "film.gain")),
        f"{HEADS}: tensor film.gain is unknown; the file was made for other sizes",
    ),
    Fault("heads: of another size", "evaluate", wider_heads, f"{HEADS}: tensor path.… has shape …, expected …"),
    Fault(
        "heads: NaN",
        "evaluate",
        tensors(HEADS, not_a_number(GAIN)),
        f"{HEADS}: tensor {GAIN} holds a non-finite number",
    ),
]
