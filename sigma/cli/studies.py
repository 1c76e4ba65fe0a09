"""The commands of the studies, whose pipelines are under ``stages/``."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer

from sigma.cli.dispatch import command

studies = Typer()

_ABLATION, _ROLLOUT, _BENCHMARK = Path("stages/ablation"), Path("stages/rollout"), Path("stages/benchmark")
_Arm = Annotated[str, Option(help="Arm, a name under ablation.arms.")]
_Metrics = Annotated[Path, Option(help="Metrics file to write.")]
_Record = Annotated[Path, Option(help="JSON file to write.")]


def _file_with(section: str) -> Any:
    return Option(help=f"File with the section {section}.")


@command(studies, "Closed loop", "sigma.studies.rollout.play")
def rollout(
    arm: Annotated[
        str,
        Option(help="expert, base, sigma, sigma_full_scale, sigma_memory_cleared, or a trained arm (with --model)."),
    ],
    model: Annotated[Path | None, Option(help="Folder of a trained arm, with arm.json and model/.")] = None,
    params: Annotated[Path, _file_with("rollout")] = _ROLLOUT / "params.yaml",
    output: Annotated[Path | None, Option(help="Table to write [stages/rollout/out/ARM.parquet].")] = None,
    videos: Annotated[Path | None, Option(help="Folder of videos [stages/rollout/out/videos/ARM].")] = None,
) -> dict[str, Any]:
    """Play one arm's episodes in the simulator."""
    folder = _ROLLOUT / "out"
    return {"output": output or folder / f"{arm}.parquet", "videos": videos or folder / "videos" / arm}


@command(studies, "Closed loop", "sigma.studies.rollout.rollout_summary")
def rollout_summary(
    tables: Annotated[list[Path], Argument(help="Tables that `sigma rollout` wrote, one an arm.")],
    params: Annotated[Path, _file_with("rollout")] = _ROLLOUT / "params.yaml",
    output: _Metrics = Path("metrics/rollout.json"),
) -> None:
    """Score the arms' episodes and compare Sigma with each other arm."""


@command(studies, "Ablation", "sigma.studies.ablation.trial", usage="trial-{arm}-{rate:g}")
def trial(
    arm: _Arm,
    rate: Annotated[float, Option(help="Multiplier of the learning rates, one of ablation.trials.rates.")],
    output: _Record,
    params: Annotated[Path, _file_with("ablation")] = _ABLATION / "params.yaml",
) -> None:
    """Train an arm at one learning rate for its validation error alone."""


@command(studies, "Ablation", "sigma.studies.ablation.rates")
def rates(
    params: Annotated[Path, _file_with("ablation")] = _ABLATION / "params.yaml",
    trials: Annotated[Path, Option(help="Folder of the trials.")] = _ABLATION / "out/trials",
    output: _Record = _ABLATION / "out/rates.json",
) -> None:
    """Choose each arm's learning rate from its trials, by validation error."""


@command(studies, "Ablation", "sigma.studies.ablation.arm", usage="arm-{arm}-{seed}")
def arm(
    arm: _Arm,
    seed: Annotated[int, Option(help="Training seed, one of ablation.seeds.")],
    output: Annotated[Path, Option(help="Folder to write: model, predictions, curves, arm.json.")],
    params: Annotated[Path, _file_with("ablation")] = _ABLATION / "params.yaml",
    rates: Annotated[Path, Option(help="Learning rates that the trials chose.")] = _ABLATION / "out/rates.json",
) -> None:
    """Train one arm of the ablation and predict the validation and test windows with it."""


@command(studies, "Ablation", "sigma.studies.ablation.ablation")
def ablation(
    params: Annotated[Path, _file_with("ablation")] = _ABLATION / "params.yaml",
    arms: Annotated[Path, Option(help="Folder of the arms' folders, NAME-SEED.")] = _ABLATION / "out",
    output: _Metrics = Path("metrics/ablation.json"),
    tables: Annotated[Path, Option(help="Folder to write: table, forest plot, curves.")] = _ABLATION / "summary",
) -> None:
    """Score every trained arm and reference on the held-out windows, with intervals over episodes."""


@command(studies, "Speed", "sigma.studies.benchmark.benchmark")
def benchmark(
    part: Annotated[str, Argument(help="Part to measure; a wrong name lists them.")],
    params: Annotated[Path, _file_with("benchmark")] = _BENCHMARK / "params.yaml",
    only: Annotated[list[str] | None, Option(help="Figure of the part; repeat for several [all].")] = None,
    output: Annotated[Path | None, Option(help="JSON file to write [stages/benchmark/out/PART.json].")] = None,
) -> dict[str, Any]:
    """Measure speed and memory against named peers; each figure is a ratio within one run."""
    return {"only": only or []}


@command(studies, "Speed", "sigma.studies.benchmark.benchmark_page")
def benchmark_page(
    parts: Annotated[Path, Option(help="Folder with a JSON file a part.")] = _BENCHMARK / "out",
    output: _Metrics = Path("metrics/benchmark.json"),
    page: Annotated[Path, Option(help="HTML file to write.")] = _BENCHMARK / "out/index.html",
) -> None:
    """Join the measured parts and write the page that says which targets of speed are met."""
