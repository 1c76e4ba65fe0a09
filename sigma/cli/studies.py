"""The commands of the further pipelines under ``stages/``; each is imported only when it runs."""

import time
from pathlib import Path
from typing import Annotated

import typer

from sigma.shared.logs import record_usage

further = typer.Typer()
_ABLATION = Path("stages/ablation")
_PARAMS = Annotated[Path, typer.Option(help="File with the section ablation.")]
_ARM = Annotated[str, typer.Option(help="Arm, a name under ablation.arms.")]


@further.command(rich_help_panel="Closed loop")
def rollout(
    arm: Annotated[
        str,
        typer.Option(
            help="expert, base, sigma, sigma_full_scale, sigma_without_residual, or a trained arm (with --model)."
        ),
    ],
    model: Annotated[Path | None, typer.Option(help="Folder of a trained arm, with arm.json and model/.")] = None,
    params: Annotated[Path, typer.Option(help="File with the section rollout.")] = Path("stages/rollout/params.yaml"),
    output: Annotated[Path | None, typer.Option(help="Table to write [stages/rollout/out/ARM.parquet].")] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of videos [stages/rollout/out/videos/ARM].")] = None,
) -> None:
    """Play one arm's episodes in the simulator."""
    from sigma.studies.rollout import play as module

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


@further.command("rollout-summary", rich_help_panel="Closed loop")
def rollout_summary(
    tables: Annotated[list[Path], typer.Argument(help="Tables that `sigma rollout` wrote, one an arm.")],
    params: Annotated[Path, typer.Option(help="File with the section rollout.")] = Path("stages/rollout/params.yaml"),
    output: Annotated[Path, typer.Option(help="Metrics file to write.")] = Path("metrics/rollout.json"),
) -> None:
    """Score the arms' episodes and compare Sigma with each other arm."""
    from sigma.studies.rollout import rollout_summary as module

    typer.echo(module.run(tables=tables, params=params, output=output))


@further.command(rich_help_panel="Ablation")
def trial(
    arm: _ARM,
    rate: Annotated[float, typer.Option(help="Multiplier of the learning rates, one of ablation.trials.rates.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    params: _PARAMS = _ABLATION / "params.yaml",
) -> None:
    """Train an arm at one learning rate for its validation error alone."""
    from sigma.studies.ablation import trial as module

    started = time.perf_counter()
    line = module.run(params=params, arm=arm, rate=rate, output=output)
    record_usage(f"trial-{arm}-{rate:g}", time.perf_counter() - started)
    typer.echo(line)


@further.command(rich_help_panel="Ablation")
def rates(
    params: _PARAMS = _ABLATION / "params.yaml",
    trials: Annotated[Path, typer.Option(help="Folder of the trials.")] = _ABLATION / "out/trials",
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = _ABLATION / "out/rates.json",
) -> None:
    """Choose each arm's learning rate from its trials, by validation error."""
    from sigma.studies.ablation import rates as module

    typer.echo(module.run(params=params, trials=trials, output=output))


@further.command(rich_help_panel="Ablation")
def arm(
    arm: _ARM,
    seed: Annotated[int, typer.Option(help="Training seed, one of ablation.seeds.")],
    output: Annotated[Path, typer.Option(help="Folder to write: model, predictions, curves, arm.json.")],
    params: _PARAMS = _ABLATION / "params.yaml",
    rates: Annotated[Path, typer.Option(help="Learning rates that the trials chose.")] = _ABLATION / "out/rates.json",
) -> None:
    """Train one arm of the ablation and predict the validation and test windows with it."""
    from sigma.studies.ablation import arm as module

    started = time.perf_counter()
    line = module.run(params=params, arm=arm, seed=seed, output=output, rates=rates)
    record_usage(f"arm-{arm}-{seed}", time.perf_counter() - started)
    typer.echo(line)


@further.command(rich_help_panel="Evidence")
def ablation(
    params: Annotated[Path, typer.Option(help="File with the sections ablation and summary.")] = Path(
        "stages/ablation/params.yaml"
    ),
    arms: Annotated[Path, typer.Option(help="Folder of the arms' folders, NAME-SEED.")] = Path("stages/ablation/out"),
    output: Annotated[Path, typer.Option(help="Metrics file to write.")] = Path("metrics/ablation.json"),
    tables: Annotated[Path, typer.Option(help="Folder to write: table, forest plot, curves.")] = Path(
        "stages/ablation/summary"
    ),
) -> None:
    """Score every trained arm and reference on the held-out windows, with intervals over episodes."""
    from sigma.studies.ablation import ablation as module

    typer.echo(module.run(params=params, arms=arms, output=output, tables=tables))


@further.command(rich_help_panel="Evidence")
def diagnose(
    params: Annotated[Path, typer.Option(help="File with the section diagnose.")] = Path("stages/evidence/params.yaml"),
    output: Annotated[Path, typer.Option(help="Metrics file to write.")] = Path("metrics/diagnostics.json"),
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to write.")] = Path(
        "stages/evidence/out/diagnostics"
    ),
) -> None:
    """Probe what Sigma's memory, intent and factors know, and whether its risk is calibrated."""
    from sigma.studies.evidence import diagnose as module

    typer.echo(module.run(params=params, output=output, pictures=pictures))


@further.command(rich_help_panel="Evidence")
def evidence(
    params: Annotated[Path, typer.Option(help="File with the section evidence.")] = Path("stages/evidence/params.yaml"),
    output: Annotated[Path, typer.Option(help="Page to write.")] = Path("stages/evidence/out/index.html"),
) -> None:
    """Write the page whose first line says which confirmatory arms Sigma beats."""
    from sigma.studies.evidence import evidence as module

    typer.echo(module.run(params=params, output=output))


@further.command(rich_help_panel="Evidence")
def confirm(
    dataset: Annotated[Path, typer.Option(help="Fresh episodes, as `sigma simulate` records them.")],
    params: Annotated[Path, typer.Option(help="File with the section confirmation.")] = Path(
        "stages/confirmation/params.yaml"
    ),
    arms: Annotated[Path, typer.Option(help="Folder of the trained arms.")] = _ABLATION / "out",
    output: Annotated[Path, typer.Option(help="Metrics file to write.")] = Path("metrics/confirmation.json"),
) -> None:
    """Score the trained arms on episodes that no choice has seen; once for a released model."""
    from sigma.studies.confirmation import confirm as module

    typer.echo(module.run(params=params, dataset=dataset, arms=arms, output=output))


@further.command(rich_help_panel="Speed")
def benchmark(
    part: Annotated[str, typer.Argument(help="Part to measure; a wrong name lists them.")],
    params: Annotated[Path, typer.Option(help="File with the section benchmark.")] = Path(
        "stages/benchmark/params.yaml"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Figure of the part; repeat for several [all].")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write [stages/benchmark/out/PART.json].")] = None,
) -> None:
    """Measure speed and memory against named peers; each figure is a ratio within one run."""
    from sigma.studies.benchmark import benchmark as module

    typer.echo(module.run(part=part, params=params, only=only or [], output=output))


@further.command("benchmark-page", rich_help_panel="Speed")
def benchmark_page(
    parts: Annotated[Path, typer.Option(help="Folder with a JSON file a part.")] = Path("stages/benchmark/out"),
    output: Annotated[Path, typer.Option(help="Metrics file to write.")] = Path("metrics/benchmark.json"),
    page: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("stages/benchmark/out/index.html"),
) -> None:
    """Join the measured parts and write the page that says which targets of speed are met."""
    from sigma.studies.benchmark import benchmark_page as module

    typer.echo(module.run(parts=parts, output=output, page=page))
