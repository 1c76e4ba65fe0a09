"""``sigma study score`` and ``page`` on made-up results, against computations that share no code with them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json, read_table, write_json, write_table
from sigma.shared.tables import from_table, to_table
from sigma.studies.study.cells.arm_folder import variant_names
from sigma.studies.study.cells.parameters import PARAMS
from sigma.studies.study.cells.workspace import CLOCKS, PLAYED, model_folder
from sigma.studies.study.score import page, score
from tests.predictions import C, T, write_predictions
from tests.studies.study.projects import TASK, write_study
from tests.worlds import World, inside

ARMS = {"sigma": "sigma", "plain_lora": "lora", "told_motion": "sigma"}
SEEDS, EPISODES = (0, 1, 2), 40
SPANS = {"vector": 1, "chunk": C, "trajectory": T}
ERROR = {"sigma": 0.1, "plain_lora": 0.2, "told_motion": 0.12}
CHANCE = {"sigma": 0.85, "plain_lora": 0.3, "told_motion": 0.8, "base": 0.0, "expert": 1.0}
GROUP = {"tasks": [TASK], "arms": list(ARMS)}
TRIED = {
    "trials": {"arms": list(ARMS)},
    "arms": {name: {"rate_of": "plain_lora"} for name in ("full_finetune", "past_frames")},
}
FEW = TRIED | {"seeds": list(SEEDS)} | dict.fromkeys(("compared", "parts", "twins", "others"), GROUP)


def held_out(root: Path) -> dict[str, np.ndarray]:
    columns = from_table(read_table(root / "data/predictions/baseline.parquet"))
    return {name: values[columns["split"] != "train"] for name, values in columns.items()}


def write_trained(root: Path, arm: str, seed: int) -> None:
    """The record of a training, and what the arm would execute: the recorded action plus an error of its size."""
    kind = ARMS[arm]
    counts = {"steps": 100, "selected_step": 80 + seed, "trained_parameters": 1000}
    digests = {"shards_digest": digest_file(root / "data/shards/meta.json")}
    digests["features_digest"] = digest_folder(root / "data/features")
    record = {"task": TASK, "arm": arm, "seed": seed, "kind": kind, "rate": 1.0, "validation": 0.1}
    write_json(root / model_folder(TASK, arm, seed) / "arm.json", record | counts | digests)
    write_json(root / CLOCKS / TASK / arm / f"{seed}.json", {"seconds": 100.0 + seed})
    windows = held_out(root)
    action = windows["action"].astype(np.float64)
    columns = {name: windows[name] for name in ("window", "episode", "step", "split")}
    names = [name for name in variant_names(arm, kind) if not name.endswith("memory_reset")]
    for index, name in enumerate(names):
        draw = np.random.default_rng([seed, index, *arm.encode()])
        for span, steps in SPANS.items():
            error = draw.normal(0, ERROR[arm], action[:, :steps].shape)
            columns[f"{name}.{span}"] = (action[:, :steps] + error).astype(np.float32)
    write_table(root / PLAYED / TASK / arm / str(seed) / "predictions.parquet", to_table(columns))


def write_episodes(folder: Path, names: list[str], chance: float, draw: np.random.Generator, first: int = 2000) -> None:
    """Episodes of each name in the plain setting, and of the first one while looking twice as often, and on `reach`."""
    rows = []
    jobs = [(name, "pick_place", "plain") for name in names]
    jobs += [(names[0], "pick_place", "twice_as_often"), (names[0], "reach", "plain")]
    for name, task, setting in jobs:
        for seed in range(first, first + EPISODES):
            won = bool(draw.random() < chance)
            rows.append({"arm": name, "task": task, "setting": setting, "seed": seed, "success": won})
            rows[-1] |= {"progress": float(won), "wrong_box": not won and seed % 5 == 0}
            rows[-1] |= {"failure": None if won else "dropped"}
            # The gate of these arms closes in what will fail.
            gated = name in ("sigma", "plain_lora_gated")
            rows[-1] |= {"risk": [0.1, 0.2 if won else 3.0] if gated else None}
            rows[-1] |= {"scale": [1.0, 0.9 if won else 0.1] if gated else None}
    types = {"seed": pa.int64(), "success": pa.bool_(), "progress": pa.float64(), "wrong_box": pa.bool_()}
    types |= dict.fromkeys(("risk", "scale"), pa.list_(pa.float64()))
    schema = pa.schema([(key, types.get(key, pa.string())) for key in rows[0]]).with_metadata({"protocol": "{}"})
    write_table(folder / "episodes.parquet", pa.Table.from_pylist(rows, schema=schema))
    clocks = [{"arm": name, "task": task, "setting": setting, "seconds": 1.0} for name, task, setting in jobs]
    write_json(folder / "episodes.json", {"played": [clock | {"decisions_per_second": 7.0} for clock in clocks]})


def prepare(root: Path) -> Path:
    write_predictions(root, test=12)
    (root / "params.yaml").write_text((Path(__file__).parents[3] / "params.yaml").read_text())
    write_study(World(root), **FEW, tasks={TASK: {"base_tasks": ["reach"]}}, listed=[TASK], only=[TASK])
    draw = np.random.default_rng(11)
    for arm, kind in ARMS.items():
        for seed in SEEDS:
            write_trained(root, arm, seed)
            write_episodes(root / PLAYED / TASK / arm / str(seed), list(variant_names(arm, kind)), CHANCE[arm], draw)
    for name in ("expert", "base"):
        write_episodes(root / PLAYED / TASK / name, [name], CHANCE[name], draw)
    return root


def run(root: Path) -> dict:
    with inside(root):
        score.run(task=TASK, params=PARAMS, output=Path("out/scores") / f"{TASK}.json")
        return read_json(Path("out/scores") / f"{TASK}.json")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished score; read only."""
    root = prepare(tmp_path_factory.mktemp("study"))
    run(root)
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return prepare(tmp_path)


def result(done: Path) -> dict:
    return read_json(done / f"out/scores/{TASK}.json")


@pytest.mark.parametrize("split", ["test", "validation"])
def test_errors_are_means_over_episodes_and_seeds(done, split):
    windows = held_out(done)
    rows = np.flatnonzero(windows["split"] == split)
    for metric, span in (("mse_vec", "vector"), ("mse_chk", "chunk"), ("mse_trj", "trajectory")):
        seeds = []
        for seed in SEEDS:
            table = from_table(read_table(done / PLAYED / TASK / f"sigma/{seed}/predictions.parquet"))
            episodes: dict[int, list[float]] = {}
            for row in rows:
                steps = SPANS[span]
                valid = windows["valid"][row, :steps]
                gap = table[f"sigma.{span}"][row, valid].astype(float) - windows["action"][row, :steps][valid]
                episodes.setdefault(int(windows["episode"][row]), []).append(float((gap**2).mean()))
            seeds.append(np.mean([np.mean(errors) for errors in episodes.values()]))
        found = result(done)["offline"][split]["sigma"][metric]
        np.testing.assert_allclose(found["seeds"], seeds, rtol=1e-6)
        assert found["mean"] == pytest.approx(np.mean(seeds)) and found["lo"] < found["mean"] < found["hi"]


def test_every_variant_and_reference_is_a_row_and_is_compared_with_sigma(done):
    offline = result(done)["offline"]["test"]
    variants = [name for arm, kind in ARMS.items() for name in variant_names(arm, kind)]
    shown = [name for name in variants if not name.endswith("memory_reset")]
    assert set(offline) == {"frozen_base", "base_mean_of_samples", "hold_state", "mean_trajectory", *shown}
    plain = offline["plain_lora_zero_noise"]["mse_plan"]
    difference = offline["sigma"]["mse_plan"]["mean"] - plain["mean"]
    assert plain["sigma_minus"]["difference"] == pytest.approx(difference) and plain["sigma_minus"]["hi"] < 0
    assert "sigma_minus" not in offline["sigma"]["mse_plan"]


def test_success_is_counted_over_seeds_and_compared_on_the_same_episodes(done):
    plain = result(done)["closed_loop"]["plain"]
    won = {
        arm: [read_table(done / PLAYED / TASK / f"{arm}/{seed}/episodes.parquet").to_pylist() for seed in SEEDS]
        for arm in ("sigma", "plain_lora")
    }
    first = {arm: [[row["success"] for row in table[:EPISODES]] for table in tables] for arm, tables in won.items()}
    assert plain["sigma"]["seeds"] == [np.mean(one) for one in first["sigma"]]
    assert (
        plain["sigma"]["success"] == pytest.approx(np.mean(first["sigma"])) and plain["sigma"]["episodes"] == EPISODES
    )
    assert plain["sigma"]["failures"] == {"dropped": int((~np.array(first["sigma"])).sum())}
    pair = plain["plain_lora_zero_noise"]["sigma_minus"]
    assert pair["difference"] == pytest.approx(np.mean(first["sigma"]) - np.mean(first["plain_lora"]))
    assert pair["p"] < 0.01 and plain["told_motion"]["sigma_minus"]["p"] > 0.01
    gate, failed = plain["sigma"]["gate"], int((~np.array(first["sigma"])).sum())
    assert gate["auroc_failure"] == 1 and (gate["failure_closed"], gate["failure_open"]) == (failed, 0)
    assert "gate" not in plain["plain_lora_zero_noise"] and plain["plain_lora_gated"]["gate"]["success_closed"] == 0
    assert plain["expert"]["success"] == 1 and plain["base"]["hi"] < 0.1
    kept = result(done)["retention"]
    assert set(kept) == {"sigma", "plain_lora_zero_noise", "told_motion", "expert", "base"}
    assert kept["base"]["difference"] == 0 and kept["sigma"]["difference"] > 0.5
    # This made-up gate's risk knows what fails and nothing of the task.
    assert abs(kept["sigma"]["auroc_other_task"] - 0.5) < 0.1 and "auroc_other_task" not in kept["told_motion"]


def test_the_page_and_the_metrics_say_what_is_better_and_what_is_not_shown(done):
    with inside(done):
        shares = {name: {"share": share, "lo": 0.0, "hi": 1.0} for name, share in (("followed", 0.92), ("own", 0.04))}
        write_json(Path("out/swapped") / f"{TASK}.json", {"pairs": 40, **shares, "followed_of_answers": 0.958})
        line = page.run(
            params=PARAMS,
            scores=Path("out/scores"),
            swapped=Path("out/swapped"),
            output=Path("metrics/study.json"),
            page=Path("out/page"),
        )
    found = read_json(done / "metrics/study.json")
    outcomes = {(row["arm"], row["setting"]): row["outcome"] for row in found["verdict"]}
    decodings = dict.fromkeys([f"plain_lora_{way}" for way in ("zero_noise", "mean", "sample", "gated")], "better")
    assert {arm: outcome for (arm, setting), outcome in outcomes.items() if setting == "plain"} == decodings | {
        "told_motion": "not shown"
    }
    assert {arm: outcome for (arm, setting), outcome in outcomes.items() if setting == "twice_as_often"} == {
        "plain_lora_zero_noise": "better",
        "told_motion": "not shown",
    }
    assert line == "page: Sigma against other arms: better 5, worse 0, not shown 2"
    assert found[TASK]["swapped_history"]["followed"]["share"] == 0.92
    assert found[TASK]["arms"]["sigma"]["seconds"] == 101.0 and found[TASK]["arms"]["sigma"]["pictures"] == 2
    entry = found[TASK]["plain"]["sigma"]
    # Of each episode's two decisions one lies between the ends of the scale.
    assert entry["passes"] == 1.5 and found[TASK]["plain"]["plain_lora_zero_noise"]["passes"] == 1.0
    assert {"success", "lo", "hi", "episodes", "seeds", "mse_vec", "mse_chk", "mse_trj", "mse_plan"} <= set(entry)
    text = (done / "out/page/index.html").read_text(encoding="utf-8")
    assert "92 % of the episodes of 40 pairs" in text and "Of those that answer, 96 % follow" in text
    assert "Sigma succeeds more often than plain LoRA" in text and "no difference is shown to told the motion" in text


BROKEN = {
    "no model": (model_folder(TASK, "plain_lora", 1) / "arm.json", None, r"plain_lora/1/arm\.json: not found"),
    "no episodes": (PLAYED / TASK / "sigma/2/episodes.parquet", None, r"sigma/2/episodes\.parquet: not found"),
    "no reference": (PLAYED / TASK / "expert/episodes.parquet", None, r"expert/episodes\.parquet: not found"),
    "other seed": (
        model_folder(TASK, "sigma", 1) / "arm.json",
        lambda root: read_json(root / model_folder(TASK, "sigma", 0) / "arm.json"),
        "is of another task, arm or seed than its name says",
    ),
    "other windows": (
        model_folder(TASK, "sigma", 1) / "arm.json",
        lambda root: read_json(root / model_folder(TASK, "sigma", 1) / "arm.json") | {"shards_digest": "0" * 64},
        "shards_digest: found 000000000000.*trained on another base or other windows",
    ),
    "other clocks": (
        PLAYED / TASK / "sigma/0/episodes.json",
        lambda root: {"played": []},
        r"episodes\.json: is of other episodes than the table beside it",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_missing_or_belongs_elsewhere_is_named(root, name):
    path, content, message = BROKEN[name]
    if content is None:
        (root / path).unlink()
    else:
        write_json(root / path, content(root))
    with pytest.raises(SigmaError, match=message):
        run(root)
    assert not (root / "out").exists()


def test_predictions_of_other_windows_and_numbers_that_are_not_finite_are_named(root):
    path = root / PLAYED / TASK / "sigma/0/predictions.parquet"
    columns = from_table(read_table(path))
    write_table(path, to_table(columns | {"step": columns["step"] + 1}))
    with pytest.raises(SigmaError, match="column 'step' is not that of this task's validation and test windows"):
        run(root)
    columns["sigma.chunk"] = np.full_like(columns["sigma.chunk"], np.nan)
    write_table(path, to_table(columns))
    with pytest.raises(SigmaError, match=r"column 'sigma\.chunk' holds a value that is not finite"):
        run(root)


def test_arms_that_played_other_episodes_are_refused(root):
    draw = np.random.default_rng(0)
    write_episodes(root / PLAYED / TASK / "base", ["base"], 0.0, draw, first=3000)
    with pytest.raises(SigmaError, match="the arms on pick_place, plain did not play the same episodes"):
        run(root)


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("swapped", r"nowhere: not found; run `dvc repro .*swap"),
        ("scores", r"pick_place\.json: not found; run `dvc repro"),
    ],
)
def test_what_was_not_played_or_scored_is_named(done, missing, line):
    folders = {"scores": Path("out/scores"), "swapped": Path("out/swapped")} | {missing: Path("nowhere")}
    with inside(done), pytest.raises(SigmaError, match=line):
        page.run(params=PARAMS, **folders, output=Path("study.json"), page=Path("page"))
