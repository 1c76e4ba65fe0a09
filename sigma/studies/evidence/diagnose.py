"""``sigma diagnose``: what can be read off memory, intent and factors, and whether the adapter's risk is calibrated."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from sigma.parameters import read_parameters, read_sections
from sigma.parameters.schema import Section

if TYPE_CHECKING:
    import numpy as np

    from sigma.data.shards import Shards
    from sigma.evaluation.summary import Evaluation
    from sigma.studies.evidence.privileged import Truth
    from sigma.studies.evidence.telepathy_replay import Trace

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


def _truths(section: DiagnoseParameters, shards: "Shards") -> "dict[int, Truth] | None":
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


def _relative_position(shards: "Shards") -> "np.ndarray":
    """Where in its episode each window decides, ``[W, 1]`` in [0, 1); an episode ends with its last recorded target."""
    import numpy as np

    ends = shards.window_step + shards.window_valid.sum(axis=1)
    length = {episode: ends[shards.window_episode == episode].max() for episode in np.unique(shards.window_episode)}
    return np.array([shards.window_step / [length[episode] for episode in shards.window_episode]]).T


def _probes(
    shards: "Shards",
    test: "np.ndarray",
    features: "dict[str, np.ndarray]",
    truths: "dict[int, Truth] | None",
    *,
    folds: int,
    resampling: dict[str, int],
) -> dict[str, Any]:
    """Scores of a probe for each label on each representation in ``features``; ``test [W]`` marks the test windows."""
    from sigma.shared.progress import track
    from sigma.studies.evidence.probes import chance, probe_classes, probe_quantity, score

    episodes = shards.window_episode
    classes: dict[str, np.ndarray] = {"instruction": shards.window_task}
    quantities = {"episode_position": _relative_position(shards)}
    if truths is not None:
        from sigma.studies.evidence.privileged import at_steps

        labels = at_steps(truths, episodes, shards.window_step)
        classes["phase"], quantities["cube_position"] = labels["phase"], labels["cube"]
    result: dict[str, Any] = {}
    order = ("phase", "cube_position", "instruction", "episode_position")
    names = [name for name in order if name in classes | quantities]
    for name in track(names, "diagnose: probes", len(names)):
        values, probe = (classes[name], probe_classes) if name in classes else (quantities[name], probe_quantity)
        gains = {key: probe(inputs, values, episodes, test, folds=folds) for key, inputs in features.items()}
        result[name] = {"chance": chance(values, test) if name in classes else 0.0}
        for key, gain in gains.items():
            against = gains["base"] if key in ("tau", "memory", "intent") else None
            result[name][key] = score(gain, episodes[test], **resampling, against=against)
    return result


def _rank_correlations(evaluation: "Evaluation", resampling: dict[str, int]) -> dict[str, Any]:
    """Rank correlation of risk and error by span, on the test windows."""
    from sigma.evaluation.scores import SPAN_METRICS
    from sigma.studies.evidence.risk import spearman

    rows = evaluation.test
    episodes, errors = evaluation.predictions.base["episode"][rows], evaluation.errors["sigma_scale_1"]
    return {
        span: spearman(evaluation.execution.risks[span][rows], errors[metric][rows], episodes, **resampling)
        for span, metric in SPAN_METRICS.items()
    }


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
    """The seconds at which each phase begins, and its name."""
    import numpy as np

    begins = np.flatnonzero(np.diff(truth.phase, prepend=truth.phase[:1]))
    return [(float(step / fps), names[truth.phase[step]]) for step in begins]


def _draw(
    folder: Path,
    probes: dict[str, Any],
    groups: list[dict[str, float | None]],
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
        "episodes": traces(followed, marks, fps),
        "reliability": reliability(groups),
    }
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    rows = [(index, *("" if value is None else value for value in part.values())) for index, part in enumerate(groups)]
    write_csv(folder / "reliability.csv", ("group", *groups[0]), rows)


def run(*, params: Path, output: Path, pictures: Path) -> str:
    """Write the metrics file ``output`` and the folder ``pictures``; returns one line.

    Raises :class:`SigmaError` before any long work where the recording that ``diagnose.recording`` names
    is not the dataset, and where the model is not the one that made ``sigma.parquet``.
    """
    section, parameters = read_sections(DiagnoseFile, params, others=True).diagnose, read_parameters()
    machine, report = parameters.machine, parameters.report

    import torch

    from sigma.shared.errors import SigmaError

    if find_spec("sklearn") is None:
        raise SigmaError("diagnose: scikit-learn is not installed; install the extra 'simulation'")
    from sigma.compute.device import open_device
    from sigma.evaluation.predictions import read_predictions
    from sigma.evaluation.summary import evaluate, risk_groups
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter, read_calibration
    from sigma.policy.model.vla import SigmaTelepathyVLA
    from sigma.shared.files import atomic_directory, write_json
    from sigma.studies.evidence.telepathy_replay import history_features, inner_states, trace
    from sigma.training.batches import load_batches

    predictions = read_predictions(DATA)
    adapter = SigmaTelepathyAdapter(**parameters.adapter.model_dump(), calibration=read_calibration(CALIBRATION))
    evaluation = evaluate(predictions, adapter, report)
    device = open_device(machine)
    material = load_batches(BASE, SHARDS, FEATURES, BASELINE, device=device)
    shards, test = material.shards, material.split == "test"
    fitting = len(set(material.columns["episode"][~test].tolist()))
    if fitting < section.folds:
        raise SigmaError(f"{params}: diagnose.folds: found {section.folds}; legal: at most {fitting}, the episodes")
    vla = SigmaTelepathyVLA.from_base(
        base_policy=material.base, lora_dir=MODEL, device=device, dtype=getattr(torch, material.dtype)
    )
    truths = _truths(section, shards)
    now = shards.window_frames[:, -1]
    features = inner_states(vla, material, predictions.sigma["tau"], machine.batch) | {
        "base": material.pooled[torch.from_numpy(now)].flatten(1).numpy(),
        "base_history": history_features(material),
        "state": shards.frame_state[now],
    }
    resampling = {"resamples": report.resamples, "seed": report.seed}
    probes = _probes(shards, test, features, truths, folds=section.folds, resampling=resampling)
    correlations, groups = _rank_correlations(evaluation, resampling), risk_groups(evaluation, section.groups)
    chosen = _chosen_episodes(evaluation, section.episodes)
    followed = {episode: trace(vla, material, adapter, CALIBRATION, episode) for episode in chosen}
    with atomic_directory(pictures) as folder:
        _draw(folder, probes, groups, followed, truths, predictions.shards["fps"])
    write_json(output, {"probes": probes, "risk": correlations, "simulated": truths is not None})
    scores = ", ".join(f"{name} {probes[name]['tau']['score']:.2f}" for name in probes)
    return f"diagnose: read off τ: {scores}; risk and error rank alike by {correlations['trajectory']['spearman']:.2f}"
