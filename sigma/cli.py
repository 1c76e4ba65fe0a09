"""The command line: one command for each stage and tool, each imported only when it runs."""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from sigma.errors import SigmaError

app = typer.Typer(
    name="sigma",
    help="Telepathy residuals on a frozen π0.5 policy, as a DVC pipeline of cached stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STAGES = {
    "fetch": "Copy the dataset into data/ and pin the base policy.",
    "audit": "Look for faults in the dataset, episode by episode.",
    "window": "Cut episodes into windows and write the shards that every later stage reads.",
    "baseline": "Run the frozen base on every window; keep its actions and its prefix features.",
    "finetune": "Train LoRA and the telepathy heads.",
    "evaluate": "Predict residuals with Sigma and with the control on the same windows.",
    "report": "Blend, score, check and draw.",
}
_OWNERS = (*(f"sigma.commands.{stage}" for stage in STAGES), "sigma.machine")


def read_environment(path: Path = Path("sigma_env")) -> None:
    """Take KEY=VALUE lines of ``sigma_env`` into the environment; what is set there already wins."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, separator, value = text.partition("=")
        if not separator or not key.strip().isidentifier():
            raise SigmaError(f"{path}: line {number}: expected KEY=VALUE")
        if value.strip():
            os.environ.setdefault(key.strip(), value.strip())


def read_parameters(path: Path | None = None) -> dict:
    """Every section of ``params.yaml``, validated as a whole before any work starts."""
    from sigma.parameters import PARAMS_FILE, read_yaml, validate

    path = path or PARAMS_FILE
    sections: dict = {}
    for module in _OWNERS:
        sections |= import_module(module).SECTIONS
    return validate(sections, read_yaml(path), path)


def _log(stage: str, seconds: float) -> None:
    """Time and peak memory go to an ignored file: they differ from run to run and must not enter an output."""
    import resource

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    folder = Path("logs")
    folder.mkdir(exist_ok=True)
    record = {"stage": stage, "seconds": round(seconds, 2), "peak_memory_mib": round(peak / 1024, 1)}
    (folder / f"{stage}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _stage(name: str) -> None:
    def command() -> None:
        started = time.perf_counter()
        parameters = read_parameters()
        line = import_module(f"sigma.commands.{name}").run(parameters)
        _log(name, time.perf_counter() - started)
        typer.echo(line)

    app.command(name=name, help=STAGES[name], rich_help_panel="Stages")(command)


for _name in STAGES:
    _stage(_name)


@app.command(rich_help_panel="Tools")
def simulate(
    output: Annotated[Path, typer.Option(help="Folder of the new LeRobotDataset; must not exist.")],
    task: Annotated[list[str], typer.Option(help="Task to record; repeat for several.")] = ["pick_place"],  # noqa: B006
    episodes: Annotated[list[int], typer.Option(help="Episodes of each task, one number for all or one a task.")] = [  # noqa: B006
        125
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of scenes, starts and noise.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Camera images, pixels a side.")] = 96,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Correlated noise on executed actions; labels stay clean.")
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that simulate.")] = 2,
) -> None:
    """Record scripted demonstrations in the simulator as a LeRobotDataset v3.0."""
    from sigma.commands import simulate as module

    typer.echo(
        module.run(tasks=task, episodes=episodes, seed=seed, output=output, size=size, noise=noise, workers=workers)
    )


@app.command(rich_help_panel="Tools")
def pretrain(
    dataset: Annotated[Path, typer.Option(help="LeRobotDataset of the base tasks.")],
    output: Annotated[Path, typer.Option(help="Folder to write: the policy, its curve and a summary.")],
    params: Annotated[Path, typer.Option(help="File with the section pretrain.")] = Path("stages/embedded/params.yaml"),
) -> None:
    """Train the small π0.5 from scratch and write it as a base."""
    from sigma.commands import pretrain as module

    typer.echo(module.run(dataset=dataset, output=output, params=params))


@app.command(rich_help_panel="Tools")
def embed(
    base: Annotated[Path, typer.Option(help="Folder of the base policy.")] = Path("stages/embedded/out/pretrain/base"),
    dataset: Annotated[Path, typer.Option(help="Folder of the target episodes.")] = Path("stages/embedded/out/dataset"),
) -> None:
    """Copy a base and a dataset into the package: they become the embedded default."""
    from sigma.commands import embed as module

    typer.echo(module.run(base=base, dataset=dataset))


@app.command("closed-loop", rich_help_panel="Tools")
def closed_loop(
    base: Annotated[Path, typer.Option(help="Folder of the base policy.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    task: Annotated[list[str], typer.Option(help="Task to roll out; repeat for several.")],
    seeds: Annotated[int, typer.Option(min=1, help="Episodes of each task.")] = 50,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    execute: Annotated[int, typer.Option(min=1, help="Steps of each chunk that are executed.")] = 8,
    samples: Annotated[int, typer.Option(min=0, help="0: zero noise; n: mean of n seeded samples.")] = 0,
) -> None:
    """Roll out a base, trained and with random weights, on fresh episodes of several tasks."""
    from sigma.commands import closed_loop as module

    typer.echo(
        module.run(
            base=base,
            output=output,
            tasks=task,
            seeds=seeds,
            first_seed=first_seed,
            execute=execute,
            samples=samples,
        )
    )


@app.command(rich_help_panel="Tools")
def rollout(
    arm: Annotated[str, typer.Option(help="expert, base, sigma, sigma_full_scale, or a trained arm (with --model).")],
    model: Annotated[Path | None, typer.Option(help="Folder of a trained arm, with arm.json and model/.")] = None,
    params: Annotated[Path, typer.Option(help="File with the section rollout.")] = Path("stages/rollout/params.yaml"),
    output: Annotated[Path | None, typer.Option(help="Table to write [stages/rollout/out/ARM.parquet].")] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of videos [stages/rollout/out/videos/ARM].")] = None,
) -> None:
    """Play one arm's episodes in the simulator."""
    from sigma.commands import rollout as module

    folder = Path("stages/rollout/out")
    typer.echo(
        module.run(
            arm=arm,
            model=model,
            params=params,
            output=output or folder / f"{arm}.parquet",
            videos=videos or folder / "videos" / arm,
        )
    )


@app.command("rollout-summary", rich_help_panel="Tools")
def rollout_summary(
    tables: Annotated[list[Path], typer.Argument(help="Tables that `sigma rollout` wrote, one an arm.")],
    params: Annotated[Path, typer.Option(help="File with the section rollout.")] = Path("stages/rollout/params.yaml"),
    output: Annotated[Path, typer.Option(help="Metrics file to write.")] = Path("metrics/rollout.json"),
) -> None:
    """Score the arms' episodes and compare Sigma with each other arm."""
    from sigma.commands import rollout_summary as module

    typer.echo(module.run(tables=tables, params=params, output=output))


@app.command(rich_help_panel="Tools")
def compare(
    revision: Annotated[str, typer.Argument(help="Commit whose metrics are compared with those here.")] = "HEAD",
    frozen_tolerance: Annotated[float, typer.Option(min=0, help="Relative, for numbers of the frozen base.")] = 1e-4,
    trained_tolerance: Annotated[float, typer.Option(min=0, help="Relative, for numbers behind a training.")] = 1e-2,
) -> None:
    """Say within what tolerance the metrics here agree with a commit's; status 1 if they do not."""
    from sigma.commands import compare as module

    table, agreed = module.run(
        revision=revision, frozen_tolerance=frozen_tolerance, trained_tolerance=trained_tolerance
    )
    typer.echo(table)
    raise typer.Exit(0 if agreed else 1)


def main() -> None:
    """Run the command line; a fault of the user's ends in one line and status 1."""
    try:
        read_environment()
        app()
    except SigmaError as error:
        print(f"sigma: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("sigma: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
