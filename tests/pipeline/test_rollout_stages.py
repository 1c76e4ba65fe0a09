"""stages/rollout: every arm is a stage of its own, and the summary reads all of them."""

import itertools
import re

from ruamel.yaml import YAML

from sigma.studies.rollout.players import BASE, EXPERT, SIGMA
from tests.imports import ROOT

yaml = YAML(typ="safe")
STAGES = yaml.load((ROOT / "stages/rollout/dvc.yaml").read_text(encoding="utf-8"))["stages"]
ABLATION = {"plain-lora", "full-finetune", "told-motion"}


def tables() -> dict[str, str]:
    """Table -> stage, with every matrix written out."""
    found = {}
    for name, stage in STAGES.items():
        axes = stage.get("matrix", {})
        for values in itertools.product(*axes.values()):
            for out in stage.get("outs", []):
                if isinstance(out, str) and out.endswith(".parquet"):
                    for axis, value in zip(axes, values, strict=True):
                        out = out.replace(f"${{item.{axis}}}", value)
                    found[out] = name
    return found


def test_the_summary_reads_each_arms_table_and_depends_on_it():
    read = re.findall(r"\S+\.parquet", STAGES["summary"]["cmd"])
    assert sorted(read) == sorted(tables()) == sorted(dep for dep in STAGES["summary"]["deps"] if "parquet" in dep)
    assert len(set(read)) == len(read)


def test_arms_of_the_main_pipeline_need_nothing_of_the_ablation():
    for name, stage in STAGES.items():
        needs = any(dep.startswith("stages/ablation") for dep in stage["deps"])
        assert needs == (name in ABLATION)
    plain = {
        table.rsplit("/", 1)[1].removesuffix(".parquet") for table, name in tables().items() if name not in ABLATION
    }
    assert plain == {EXPERT, BASE, SIGMA, f"{SIGMA}_full_scale", f"{SIGMA}_memory_cleared"}


def test_the_root_pipelines_own_arms_have_a_summary_that_needs_no_ablation():
    stage = STAGES["sigma-summary"]
    read = re.findall(r"\S+\.parquet", stage["cmd"])
    assert sorted(read) == sorted(table for table, name in tables().items() if name not in ABLATION)
    assert sorted(read) == sorted(dep for dep in stage["deps"] if "parquet" in dep)


def test_the_clocks_file_goes_with_its_table():
    for stage in STAGES.values():
        for key in ("outs", "deps"):
            names = [name for name in stage.get(key, []) if isinstance(name, str)]
            mine = [name for name in names if name.startswith("stages/rollout/out/")]
            tables = [name.removesuffix(".parquet") for name in mine if name.endswith(".parquet")]
            assert tables == [name.removesuffix(".json") for name in mine if name.endswith(".json")]


def test_only_arms_with_an_adapter_depend_on_its_settings():
    for name, stage in STAGES.items():
        assert ("adapter" in stage["params"]) == (name in {"arm", "told-motion"})


def test_every_parameter_has_a_comment():
    lines = (ROOT / "stages/rollout/params.yaml").read_text(encoding="utf-8").splitlines()
    top = [number for number, line in enumerate(lines) if re.match(r"  \w+:", line)]
    assert len(top) >= 10
    for number in top:
        assert lines[number - 1].strip().startswith("#"), lines[number]
