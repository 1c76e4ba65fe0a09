"""The commands of the studies, whose pipelines are under ``stages/``."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer

from sigma.cli.dispatch import command
from sigma.cli.help import Panels

studies = Typer()

_STUDY, _BENCHMARK = Path("stages/study"), Path("stages/benchmark")
_Params = Annotated[Path, Option(help="File with the section study.")]
_Task = Annotated[str, Option(help="Task, a name under study.tasks.")]
_Arm = Annotated[str, Option(help="Arm, a name under study.arms.")]
_Seed = Annotated[int, Option(help="Training seed, one of study.seeds.")]
_Corrections = Annotated[Path, Option(help="File with the section corrections.")]
_Folder = Annotated[Path, Option(help="Folder to write.")]
_Metrics = Annotated[Path, Option(help="Metrics file to write.")]
_Record = Annotated[Path, Option(help="JSON file to write.")]
_PARAMS, _ROUNDS = _STUDY / "params.yaml", Path("stages/corrections")


def _file_with(section: str) -> Any:
    return Option(help=f"File with the section {section}.")


@command(studies, "Study", "sigma.studies.study.play.rollout")
def rollout(
    arm: Annotated[str, Option(help="expert, base, sigma, sigma_full_scale or sigma_memory_reset.")],
    output: Annotated[Path, Option(help="Table to write, with a JSON file of the times beside it.")],
    task: _Task = "pick_place",
    settings: Annotated[
        list[str], Option("--setting", help="Play this setting alone; repeat for several.  [default: all of them]")
    ] = [],  # noqa: B006
    workspace: Annotated[Path, Option(help="Folder in which the pipeline's stages ran.")] = Path(),
    videos: Annotated[Path | None, Option(help="Folder to film some episodes into.")] = None,
    params: _Params = _PARAMS,
) -> None:
    """Play a task's episodes in the simulator."""


@command(studies, "Study", "sigma.studies.study.correct.correct")
def correct(
    arm: Annotated[str, Option(help="Who plays: base, sigma, sigma_full_scale or sigma_memory_reset.")],
    output: Annotated[Path, Option(help="New folder for the LeRobotDataset.")],
    task: _Task = "pick_place",
    episodes: Annotated[int, Option(help="Corrected successes to record.", min=1, max=10_000)] = 50,
    settings: Annotated[
        list[str], Option("--setting", help="Setting of the study; repeat to share the episodes out.")
    ] = ["plain"],  # noqa: B006
    patience: Annotated[float, Option(help="Seconds without progress before the expert takes over.", min=0.8)] = 4.0,
    at_random: Annotated[
        bool, Option("--at-random", help="Take over at one drawn moment of each episode too.")
    ] = False,
    seed: Annotated[int, Option(help="Seed of the first episode.", min=0)] = 1_000_000,
    workspace: Annotated[Path, Option(help="Folder in which the pipeline's stages ran.")] = Path(),
    params: _Params = _PARAMS,
) -> None:
    """Let a policy play in the simulator and the expert correct it where it fails."""


study = Typer(cls=Panels, help="The evidence: tasks, arms and training seeds.", no_args_is_help=True)
studies.add_typer(study, name="study", rich_help_panel="Study")


@command(study, "Stages", "sigma.studies.study.data.record")
def record(task: _Task, output: _Folder, params: _Params = _PARAMS) -> None:
    """Record a task's demonstrations in the simulator."""


@command(study, "Stages", "sigma.studies.study.data.data")
def data(
    task: _Task,
    recording: Annotated[Path, Option(help="Folder of the task's demonstrations.")],
    output: _Folder,
    params: _Params = _PARAMS,
) -> None:
    """Run the pipeline's first stages on a recording, as far as the frozen base's actions."""


@command(study, "Stages", "sigma.studies.study.cells.cells")
def cells(output: _Folder = _STUDY / "out/cells", params: _Params = _PARAMS) -> None:
    """Write what the other stages depend on of the parameters, in files of their own."""


@command(study, "Stages", "sigma.studies.study.train.trial")
def trial(
    task: _Task,
    arm: _Arm,
    rate: Annotated[float, Option(help="Multiplier of the learning rates, one of study.trials.rates.")],
    output: _Record,
    params: _Params = _PARAMS,
) -> None:
    """Train an arm at one learning rate for its validation error alone."""


@command(study, "Stages", "sigma.studies.study.cells.rates")
def rates(output: _Folder = _STUDY / "out/rates", params: _Params = _PARAMS) -> None:
    """Write the learning rate of every arm, which its trials chose."""


@command(study, "Stages", "sigma.studies.study.train.train")
def train(task: _Task, arm: _Arm, seed: _Seed, output: _Folder, params: _Params = _PARAMS) -> None:
    """Train an arm at one seed, at the learning rate that its trials chose."""


@command(study, "Corrections", "sigma.studies.study.correct.round")
def round(
    task: _Task,
    arm: _Arm,
    seed: _Seed,
    way: Annotated[str, Option(help="How it goes on, one of corrections.ways.")],
    output: _Folder,
    params: _Params = _PARAMS,
    corrections: _Corrections = _ROUNDS / "params.yaml",
) -> None:
    """Let a trained arm learn from corrections, or from as many demonstrations, and play."""


@command(study, "Corrections", "sigma.studies.study.correct.score")
def rounds(
    rounds: Annotated[Path, Option(help="Folder of the rounds.")] = _ROUNDS / "out",
    params: _Params = _PARAMS,
    corrections: _Corrections = _ROUNDS / "params.yaml",
    output: _Metrics = Path("metrics/corrections.json"),
) -> None:
    """Write what each way gained and lost."""


@command(study, "Stages", "sigma.studies.study.play.arm")
def play(
    task: _Task,
    arm: _Arm,
    output: _Folder,
    settings: Annotated[str, Option(help="What is played: all settings, the task's own, or plain.")] = "all",
    params: _Params = _PARAMS,
) -> None:
    """Predict the held-out windows with a trained arm at every seed, and play its episodes."""


@command(study, "Stages", "sigma.studies.study.swap.swap")
def swap(task: _Task, output: _Record, params: _Params = _PARAMS) -> None:
    """Exchange the memories of two episodes half-way: does the answer follow the history?"""


@command(study, "Stages", "sigma.studies.study.score.score")
def score(task: _Task, output: _Record, params: _Params = _PARAMS) -> None:
    """Score a task's arms, offline and in closed loop."""


@command(study, "Stages", "sigma.studies.study.score.page")
def page(
    scores: Annotated[Path, Option(help="Folder with a JSON file a task.")] = _STUDY / "out/scores",
    swapped: Annotated[Path, Option(help="Folder with those of exchanged memories.")] = _STUDY / "out/swapped",
    output: _Metrics = Path("metrics/study.json"),
    page: _Folder = _STUDY / "out/page",
    params: _Params = _PARAMS,
) -> None:
    """Join the tasks' scores into the metrics file and a page."""


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
