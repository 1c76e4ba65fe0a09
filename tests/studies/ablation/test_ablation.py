"""``sigma ablation`` on made-up arm folders, against computations that share no code with it."""

import csv
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sigma.commands import report
from sigma.evaluation.predictions import stored_measures
from sigma.parameters import read_parameters
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_calibration
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json, read_table, write_json, write_table
from sigma.shared.spans import split as split_spans
from sigma.shared.tables import from_table, to_table
from sigma.studies.ablation import ablation
from tests.arm_folders import VARIANTS, held_out, write_arm, write_arms, write_parameters
from tests.imports import ROOT
from tests.predictions import C, D, T, write_predictions
from tests.worlds import inside

GRIPPER, THRESHOLD = D - 1, 0.25
OUT = Path("stages/ablation/out")
SUMMARY = Path("stages/ablation/summary")


def prepare(root: Path, **options) -> Path:
    """The inputs of report and ablation under ``root``, with few resamples."""
    write_predictions(root, **options)
    text = (ROOT / "params.yaml").read_text()
    assert "  resamples: 10000 " in text
    (root / "params.yaml").write_text(text.replace("  resamples: 10000 ", "  resamples: 300 "))
    return root


def run(root: Path) -> dict:
    """Run the command in ``root`` with its default paths; returns the metrics file."""
    with inside(root):
        ablation.run(
            params=Path("stages/ablation/params.yaml"),
            arms=OUT,
            output=Path("metrics/ablation.json"),
            tables=SUMMARY,
        )
        return read_json(Path("metrics/ablation.json"))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished run of two seeds; read only."""
    root = prepare(tmp_path_factory.mktemp("ablation"), test=12)
    write_arms(root)
    run(root)
    return root


@pytest.fixture
def project(done, tmp_path) -> Path:
    """A copy of its inputs that a test may alter."""
    for part in ("data", "stages/ablation", "params.yaml"):
        if (done / part).is_dir():
            shutil.copytree(done / part, tmp_path / part, ignore=shutil.ignore_patterns("summary"))
        else:
            shutil.copyfile(done / part, tmp_path / part)
    return tmp_path


def window_errors(root: Path, variant: str, arm: str, seed: int) -> dict[str, np.ndarray]:
    """Errors of each held-out window, written out step by step."""
    windows = held_out(root)
    columns = from_table(read_table(root / OUT / f"{arm}-{seed}" / "predictions.parquet"))
    found = {"mse_vec": [], "mse_chk": [], "mse_trj": [], "mse_plan": []}
    for row in range(len(windows["action"])):
        true = windows["action"][row].astype(float)
        branches = {name: columns[f"{variant}.{name}"][row].astype(float) for name in ("vector", "chunk", "trajectory")}
        plan = [branches["vector"][0]]
        plan += [branches["chunk"][step] for step in range(1, C)]
        plan += [branches["trajectory"][step] for step in range(C, T)]
        found["mse_vec"].append(np.mean((branches["vector"] - true[:1]) ** 2))
        found["mse_chk"].append(np.mean((branches["chunk"] - true[:C]) ** 2))
        found["mse_trj"].append(np.mean((branches["trajectory"] - true) ** 2))
        found["mse_plan"].append(np.mean((np.array(plan) - true) ** 2))
    return {metric: np.array(values) for metric, values in found.items()}


def critical(root: Path) -> np.ndarray:
    grip = held_out(root)["action"][:, :, GRIPPER]
    return np.array([max(row) - min(row) > THRESHOLD for row in grip])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_means_and_seeds_are_those_of_the_written_actions(done, split):
    chosen = held_out(done)["split"] == split
    gripping = chosen & critical(done)
    assert 0 < gripping.sum() < chosen.sum()
    rows = read_json(done / "metrics/ablation.json")[split]["rows"]
    for arm in ("sigma", "plain_lora", "told_motion"):
        for variant in VARIANTS[arm]:
            errors = [window_errors(done, variant, arm, seed) for seed in (0, 1)]
            expected = {metric: [error[metric][chosen].mean() for error in errors] for metric in errors[0]}
            expected["mse_plan_critical"] = [error["mse_plan"][gripping].mean() for error in errors]
            for metric, values in expected.items():
                entry = rows[variant][metric]
                assert [entry["seeds"]["0"], entry["seeds"]["1"]] == pytest.approx(values, rel=1e-6)
                assert entry["mean"] == pytest.approx(np.mean(values), rel=1e-6)
                assert entry["lo"] < entry["mean"] < entry["hi"]


def test_the_interval_and_p_are_those_of_seed_averages_over_whole_episodes(done):
    chosen = held_out(done)["split"] == "test"
    episodes = held_out(done)["episode"][chosen]
    sigma, other = (
        np.mean([window_errors(done, name, name, seed)["mse_plan"][chosen] for seed in (0, 1)], axis=0)
        for name in ("sigma", "told_motion")
    )
    difference = sigma - other
    entry = read_json(done / "metrics/ablation.json")["test"]["rows"]["told_motion"]["mse_plan"]
    assert entry["delta"] == pytest.approx(difference.mean(), rel=1e-5)
    groups = [difference[episodes == episode] for episode in np.unique(episodes)]
    random = np.random.default_rng(3)
    drawn = [np.concatenate([groups[pick] for pick in random.integers(0, 12, 12)]).mean() for _ in range(4000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert entry["delta_lo"] == pytest.approx(low, abs=0.25 * (high - low))
    assert entry["delta_hi"] == pytest.approx(high, abs=0.25 * (high - low))
    sums = np.array([group.sum() for group in groups])
    flips = np.array(list(itertools.product([-1, 1], repeat=12))) @ sums
    exact = np.mean(np.abs(flips) >= abs(sums.sum()) - 1e-12)
    assert entry["p"] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 300) + 2 / 301)


def test_one_seed_gives_what_the_report_writes_for_the_same_predictions(tmp_path, monkeypatch):
    root = prepare(tmp_path, skill=0.6)
    monkeypatch.chdir(root)
    parameters = read_parameters()
    report.run(parameters)
    baseline, sigma = (
        from_table(read_table(Path(f"data/predictions/{name}.parquet"))) for name in ("baseline", "sigma")
    )
    settings = parameters.adapter.model_dump()
    adapter = SigmaTelepathyAdapter(**settings, calibration=read_calibration(Path("models/adapter_calibration.json")))
    executed = adapter.execute(baseline["base_action"], sigma["sigma_action"], stored_measures(sigma))
    folder, chosen = write_arm(root, "sigma", 4, {"sigma": 0.1}), baseline["split"] != "train"
    columns = from_table(read_table(folder / "predictions.parquet"))
    columns |= {f"sigma.{name}": action[chosen] for name, action in split_spans(executed.plan, C).items()}
    write_table(folder / "predictions.parquet", to_table(columns))
    write_parameters(root, (4,), ("sigma",))
    found, check_b = run(root), read_json(Path("metrics/check_b.json"))
    metrics = {name: read_json(Path(f"metrics/{name}.json")) for name in ("baseline", "sigma")}
    names = {"base_mean_of_samples": "reference", "hold_state": "reference", "mean_trajectory": "reference"}
    for metric in ("mse_vec", "mse_chk", "mse_trj", "mse_plan"):
        for split in ("test", "validation"):
            rows = found[split]["rows"]
            assert rows["sigma"][metric]["mean"] == pytest.approx(metrics["sigma"][split][metric], rel=1e-12)
            assert rows["frozen_base"][metric]["mean"] == pytest.approx(metrics["baseline"][split][metric], rel=1e-12)
        rows = found["test"]["rows"]
        for key in ("delta", "delta_lo", "delta_hi", "p"):
            expected = check_b["test"][metric][key]
            assert rows["frozen_base"][metric][key] == pytest.approx(expected, rel=1e-12), (metric, key)
            for name in names:
                expected = check_b["references"][name][metric][key]
                assert rows[name][metric][key] == pytest.approx(expected, rel=1e-12), (name, metric, key)
        for name, key in names.items():
            assert rows[name][metric]["mean"] == pytest.approx(check_b["references"][name][metric][key], rel=1e-12)
    subsets = read_json(Path("metrics/sigma_eval_report.json"))["subsets"]
    difference = subsets["critical"]["mse_plan_difference"]
    assert found["test"]["critical_windows"] == subsets["critical"]["windows"]
    assert found["test"]["rows"]["sigma"]["mse_plan_critical"]["mean"] == pytest.approx(difference["sigma"], rel=1e-12)
    for key in ("delta", "delta_lo", "delta_hi", "p"):
        entry = found["test"]["rows"]["frozen_base"]["mse_plan_critical"]
        assert entry[key] == pytest.approx(difference[key], rel=1e-12)


def test_confirmatory_rows_are_marked_and_carry_a_corrected_p(done):
    rows = read_json(done / "metrics/ablation.json")["test"]["rows"]
    marked = {name for name, row in rows.items() if row["confirmatory"]}
    plain = {"plain_lora_sample", "plain_lora_zero_noise", "plain_lora_mean"}
    assert marked == {"sigma", "told_motion"} | plain
    assert "delta" not in rows["sigma"]["mse_plan"]
    family = [(name, claim) for name in marked - {"sigma"} for claim in ("mse_plan", "mse_plan_critical")]
    for name, row in rows.items():
        for metric in ("mse_vec", "mse_chk", "mse_trj", "mse_plan", "mse_plan_critical"):
            assert ("p_holm" in row[metric]) == ((name, metric) in family)
    raw = {key: rows[key[0]][key[1]]["p"] for key in family}
    for key in family:
        # Holm: the largest, over everything no less significant, of p times the hypotheses not yet rejected.
        bounds = [
            p * sum(other > p or (other == p and second >= first) for second, other in raw.items())
            for first, p in raw.items()
            if (p, first) <= (raw[key], key)
        ]
        assert rows[key[0]][key[1]]["p_holm"] == pytest.approx(min(1.0, max(bounds)))


def test_the_flattening_of_a_curve_is_the_fall_over_the_last_fifth(done):
    arms = read_json(done / "metrics/ablation.json")["arms"]
    for seed in (0, 1):
        at = [0.3 + 0.01 * seed + np.exp(-step / 20) for step in (80, 100)]
        found = arms["plain_lora"]["fall_over_last_fifth"]["seeds"][str(seed)]
        assert found == pytest.approx(1 - at[1] / at[0])
    assert arms["sigma"]["selected_step"] == {"0": 80, "1": 81} and arms["sigma"]["trained_parameters"] == 1000


def test_tables_and_pictures_are_written_and_a_second_run_repeats_their_bytes(project):
    digests = []
    for _ in range(2):
        run(project)
        digests.append((digest_folder(project / SUMMARY), digest_file(project / "metrics/ablation.json")))
    assert digests[0] == digests[1]
    folder = project / SUMMARY
    assert {file.name for file in folder.iterdir()} == {"rows.csv", "forest.svg", "curves.svg"}
    with open(folder / "rows.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = read_json(project / "metrics/ablation.json")["validation"]["rows"]
    assert len(lines) == 2 * len(rows) * 5
    (line,) = [x for x in lines if (x["split"], x["row"], x["metric"]) == ("validation", "told_motion", "mse_chk")]
    assert float(line["delta_hi"]) == rows["told_motion"]["mse_chk"]["delta_hi"]


@pytest.mark.processes
def test_no_torch_is_imported(done):
    code = (
        "import sys\nfrom pathlib import Path\nfrom sigma.studies.ablation import ablation\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "ablation.run(params=Path('stages/ablation/params.yaml'), arms=Path('stages/ablation/out'), "
        "output=Path('again/ablation.json'), tables=Path('again/summary'))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=done, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert digest_file(done / "again/ablation.json") == digest_file(done / "metrics/ablation.json")


def change_record(folder: Path, **values) -> None:
    write_json(folder / "arm.json", read_json(folder / "arm.json") | values)


def change_column(folder: Path, name: str, change) -> None:
    path = folder / "predictions.parquet"
    columns = from_table(read_table(path))
    write_table(path, to_table(columns | {name: change(columns[name].copy())}))


def refused(project: Path, message: str) -> None:
    with pytest.raises(SigmaError, match=message) as error:
        run(project)
    assert "\n" not in str(error.value)
    assert not (project / "metrics").exists() and not (project / SUMMARY).exists()


def test_a_missing_arm_is_named_with_its_folder(project):
    shutil.rmtree(project / OUT / "told_motion-1")
    refused(project, r"out/told_motion-1/arm\.json: not found; run the stage that writes it")


def test_an_arm_or_seed_that_is_not_listed_is_refused(project):
    write_arm(project, "sigma", 7)
    refused(project, r"out/sigma-7: an arm or seed that the parameters do not list; legal: sigma, .* of seeds 0, 1")


@pytest.mark.parametrize("key", ["shards_digest", "features_digest"])
def test_an_arm_of_other_windows_is_refused(project, key):
    change_record(project / OUT / "plain_lora-0", **{key: "0" * 64})
    refused(
        project,
        rf"out/plain_lora-0/arm\.json: {key}: found 000000000000, data/ has .*: trained on another base",
    )


def test_other_window_ids_values_that_are_not_finite_and_wrong_shapes_are_refused(project):
    folder = project / OUT / "sigma-1"
    kept = (folder / "predictions.parquet").read_bytes()
    change_column(folder, "window", lambda ids: ids[::-1].copy())
    refused(project, r"sigma-1/predictions\.parquet: column 'window' is not that of this run's")
    (folder / "predictions.parquet").write_bytes(kept)
    change_column(folder, "sigma_full_scale.chunk", lambda actions: np.where(actions > 0.5, np.nan, actions))
    refused(project, r"sigma-1/predictions\.parquet: column 'sigma_full_scale\.chunk' holds a value that is not finite")
    (folder / "predictions.parquet").write_bytes(kept)
    change_column(folder, "sigma.vector", lambda actions: np.concatenate([actions, actions], axis=1))
    refused(project, r"sigma-1/predictions\.parquet: column 'sigma\.vector' has shape .* is needed")


def test_a_folder_that_holds_another_arm_or_lacks_a_key_or_a_row_is_refused(project):
    folder = project / OUT / "told_motion-0"
    change_record(folder, seed=1)
    refused(project, r"out/told_motion-0/arm\.json: found arm told_motion of seed 1; legal: told_motion, 0")
    record = {key: value for key, value in read_json(folder / "arm.json").items() if key != "steps"}
    write_json(folder / "arm.json", record | {"seed": 0})
    refused(project, r"out/told_motion-0/arm\.json: key 'steps' is missing")
    change_record(folder, steps=100, variants=["told_motion"])
    refused(project, r"row 'told_motion_full_scale' is missing from some seeds")


def test_arms_without_sigma_and_seeds_that_come_twice_are_refused(project):
    others = tuple(name for name in VARIANTS if name != "sigma")
    for seed in (0, 1):
        shutil.rmtree(project / OUT / f"sigma-{seed}")
    write_parameters(project, (0, 1), others)
    refused(project, r"params\.yaml: ablation\.arms: sigma is missing, with which every row is compared")
    write_parameters(project, (0, 0), others)
    refused(project, r"params\.yaml: ablation\.seeds: values must be distinct")
