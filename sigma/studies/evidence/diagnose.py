"""``sigma diagnose``: what can be read off memory, intent and factors, and whether the adapter's risk is calibrated."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from sigma.parameters import read_parameters, read_sections
from sigma.parameters.schema import Section

if TYPE_CHECKING:
    import numpy as np

    from sigma.evaluation.summary import Evaluation
    from sigma.studies.evidence.privileged import Truth
    from sigma.studies.evidence.telepathy_replay import Trace
    from sigma.training.batches import WindowBatches

BASE, SHARDS, FEATURES = Path("data/base.json"), Path("data/shards"), Path("data/features")
DATA, BASELINE = Path("data"), Path("data/predictions/baseline.parquet")
MODEL, CALIBRATION = Path("models/sigma"), Path("models/adapter_calibration.json")


class DiagnoseParameters(Section):
    recording: str | None
    state_tolerance: float = Field(ge=0)
    folds: int = Field(ge=2, le=100)
    episodes: int = Field(ge=1, le=8)
    groups: int = Field(ge=2, le=100)


class Recording(Section):
    """What names the simulator's episodes in the file ``diagnose.recording``; its other keys are not read."""

    model_config = ConfigDict(extra="ignore")

    target_seed: int
    noise: float


class RecordingFile(Section):
    simulate: Recording


class DiagnoseFile(Section):
    diagnose: DiagnoseParameters


def _truths(section: DiagnoseParameters, material: "WindowBatches") -> "dict[int, Truth] | None":
    """Privileged labels of every episode; None for a dataset that the simulator did not make."""
    if section.recording is None:
        return None
    source = Path(section.recording)
    recording = read_sections(RecordingFile, source, others=True).simulate
    from sigma.shared.errors import SigmaError

    try:
        from sigma.simulation.tasks import TARGET
        from sigma.studies.evidence.privileged import privileged_labels
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco", "so101_nexus", "gymnasium"):
            raise
        raise SigmaError(f"diagnose: {error.name} is not installed; install the extra 'simulation'") from None
    shards = material.shards
    return privileged_labels(
        shards.frame_episode,
        shards.frame_step,
        shards.frame_state,
        name=TARGET,
        seed=recording.target_seed,
        noise=recording.noise,
        tolerance=section.state_tolerance,
        source=f"{source}: simulate",
    )


def _relative_position(material: "WindowBatches") -> "np.ndarray":
    """Where in its episode each window decides, ``[W, 1]`` in [0, 1); an episode ends with its last recorded target."""
    import numpy as np

    shards = material.shards
    ends = shards.window_step + shards.window_valid.sum(axis=1)
    length = {episode: ends[shards.window_episode == episode].max() for episode in np.unique(shards.window_episode)}
    return np.array([shards.window_step / [length[episode] for episode in shards.window_episode]]).T


def _probes(
    section: DiagnoseParameters,
    material: "WindowBatches",
    features: "dict[str, np.ndarray]",
    truths: "dict[int, Truth] | None",
    report: Any,
) -> dict[str, Any]:
    from sigma.shared.progress import track
    from sigma.studies.evidence.probes import chance, probe_classes, probe_quantity, score

    shards = material.shards
    test, episodes = material.split == "test", shards.window_episode
    classes: dict[str, Any] = {"instruction": shards.window_task}
    quantities: dict[str, Any] = {"episode_position": _relative_position(material)}
    if truths is not None:
        from sigma.studies.evidence.privileged import at_steps

        labels = at_steps(truths, episodes, shards.window_step)
        classes, quantities["cube_position"] = {"phase": labels["phase"], **classes}, labels["cube"]
    options = {"resamples": report.resamples, "seed": report.seed}
    result: dict[str, Any] = {}
    jobs = [(name, True) for name in classes] + [(name, False) for name in quantities]
    for name, is_class in track(jobs, "diagnose: probes", len(jobs)):
        labels, probe = (classes[name], probe_classes) if is_class else (quantities[name], probe_quantity)
        gains = {key: probe(values, labels, episodes, test, folds=section.folds) for key, values in features.items()}
        result[name] = {"chance": chance(labels, test) if is_class else 0.0}
        for key, gain in gains.items():
            against = gains["base"] if key in ("tau", "memory", "intent") else None
            result[name][key] = score(gain, episodes[test], **options, against=against)
    return {
        name: result[name] for name in ("phase", "cube_position", "instruction", "episode_position") if name in result
    }


def _risk(evaluation: "Evaluation", groups: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rank correlation of risk and error by span, and the reliability groups of the whole trajectory."""
    from sigma.evaluation.scores import SPAN_METRICS
    from sigma.evaluation.summary import risk_groups
    from sigma.studies.evidence.risk import spearman

    rows, execution = evaluation.test, evaluation.execution
    episodes = evaluation.predictions.base["episode"][rows]
    correlations = {
        span: spearman(
            execution.risks[span][rows],
            evaluation.errors["sigma_scale_1"][metric][rows],
            episodes,
            resamples=evaluation.resamples,
            seed=evaluation.seed,
        )
        for span, metric in SPAN_METRICS.items()
    }
    return correlations, risk_groups(evaluation, groups)


def _chosen_episodes(evaluation: "Evaluation", count: int) -> list[int]:
    """Test episodes spread evenly over the order of their errors at scale 1, the best and worst ends left out."""
    import numpy as np

    rows = evaluation.test
    episodes = evaluation.predictions.base["episode"][rows]
    errors = evaluation.errors["sigma_scale_1"]["mse_plan"][rows]
    names = np.unique(episodes)
    order = names[np.argsort([errors[episodes == name].mean() for name in names], kind="stable")]
    places = np.linspace(0, len(order) - 1, min(count, len(order)) + 2)[1:-1].round().astype(int)
    return [int(order[place]) for place in dict.fromkeys(places.tolist())]


def _phase_marks(truth: "Truth", names: tuple[str, ...], fps: float) -> list[tuple[float, str]]:
    import numpy as np

    begins = np.flatnonzero(np.diff(truth.phase, prepend=truth.phase[:1]))
    return [(float(step / fps), names[truth.phase[step]]) for step in begins]


def _draw(
    folder: Path,
    probes: dict[str, Any],
    bins: list[dict[str, Any]],
    followed: "dict[int, Trace]",
    truths: "dict[int, Truth] | None",
    fps: float,
) -> None:
    from sigma.report.figures import reliability
    from sigma.report.table import write_csv
    from sigma.studies.evidence.diagnostic_figures import probe_scores, traces

    marks = {}
    if truths is not None:
        from sigma.simulation.tasks import TARGET
        from sigma.studies.evidence.privileged import phase_names

        marks = {episode: _phase_marks(truths[episode], phase_names(TARGET), fps) for episode in followed}
    drawn = {
        "probes": probe_scores(probes),
        "episodes": traces(
            [(episode, found.steps / fps, found.corrections, found.scales) for episode, found in followed.items()],
            marks,
        ),
        "reliability": reliability(bins),
    }
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    header = ("group", *bins[0])
    rows = [(index, *("" if value is None else value for value in part.values())) for index, part in enumerate(bins)]
    write_csv(folder / "reliability.csv", header, rows)


def run(*, params: Path, output: Path, pictures: Path) -> str:
    """Write the metrics file ``output`` and the folder ``pictures``; returns one line.

    Raises :class:`SigmaError` before any long work where the recording that ``diagnose.recording`` names
    is not the dataset, and where the model is not the one that made ``sigma.parquet``.
    """
    section, whole = read_sections(DiagnoseFile, params, others=True).diagnose, read_parameters()
    machine, report = whole.machine, whole.report

    import torch

    from sigma.shared.errors import SigmaError

    if find_spec("sklearn") is None:
        raise SigmaError("diagnose: scikit-learn is not installed; install the extra 'simulation'")
    from sigma.compute.device import open_device
    from sigma.evaluation.predictions import read_predictions
    from sigma.evaluation.summary import evaluate
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter, read_calibration
    from sigma.policy.model.vla import SigmaTelepathyVLA
    from sigma.shared.files import atomic_directory, write_json
    from sigma.studies.evidence.telepathy_replay import history_features, inner_states, trace
    from sigma.training.batches import load_batches

    predictions = read_predictions(DATA)
    adapter = SigmaTelepathyAdapter(**whole.adapter.model_dump(), calibration=read_calibration(CALIBRATION))
    evaluation = evaluate(predictions, adapter, report)
    device = open_device(machine)
    material = load_batches(BASE, SHARDS, FEATURES, BASELINE, device=device)
    held = {name: set(material.columns["episode"][material.split == name].tolist()) for name in ("train", "validation")}
    fitting = len(held["train"] | held["validation"])
    if fitting < section.folds:
        raise SigmaError(f"{params}: diagnose.folds: found {section.folds}; legal: at most {fitting}, the episodes")
    vla = SigmaTelepathyVLA.from_base(
        base_policy=material.base, lora_dir=MODEL, device=device, dtype=getattr(torch, material.dtype)
    )
    truths = _truths(section, material)
    inner = inner_states(vla, material, predictions.sigma["tau"], machine.batch)
    now = material.shards.window_frames[:, -1]
    features = inner | {
        "base": material.pooled[torch.from_numpy(now)].flatten(1).numpy(),
        "base_history": history_features(material),
        "state": material.shards.frame_state[now],
    }
    probes = _probes(section, material, features, truths, report)
    correlations, bins = _risk(evaluation, section.groups)
    chosen = _chosen_episodes(evaluation, section.episodes)
    followed = {episode: trace(vla, material, adapter, CALIBRATION, episode) for episode in chosen}
    with atomic_directory(pictures) as folder:
        _draw(folder, probes, bins, followed, truths, predictions.shards["fps"])
    write_json(output, {"probes": probes, "risk": correlations, "simulated": truths is not None})
    scores = ", ".join(f"{name} {probes[name]['tau']['score']:.2f}" for name in probes)
    return f"diagnose: read off τ: {scores}; risk and error rank alike by {correlations['trajectory']['spearman']:.2f}"
