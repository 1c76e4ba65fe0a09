"""The commands that belong to no pipeline, and those that make a base; each is imported only when it runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sigma.cli.help import Panels

tools = typer.Typer()


@tools.command(rich_help_panel="Tools")
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
    from sigma.tools import simulate as module

    typer.echo(
        module.run(tasks=task, episodes=episodes, seed=seed, output=output, size=size, noise=noise, workers=workers)
    )


@tools.command(rich_help_panel="Tools")
def pretrain(
    dataset: Annotated[Path, typer.Option(help="LeRobotDataset of the base tasks.")],
    output: Annotated[Path, typer.Option(help="Folder to write: the policy, its curve and a summary.")],
    params: Annotated[Path, typer.Option(help="File with the section pretrain.")] = Path("stages/embedded/params.yaml"),
) -> None:
    """Train the small π0.5 from scratch and write it as a base."""
    from sigma.studies.world import pretrain as module

    typer.echo(module.run(dataset=dataset, output=output, params=params))


@tools.command(rich_help_panel="Tools")
def embed(
    base: Annotated[Path, typer.Option(help="Folder of the base policy.")] = Path("stages/embedded/out/pretrain/base"),
    dataset: Annotated[Path, typer.Option(help="Folder of the target episodes.")] = Path("stages/embedded/out/dataset"),
) -> None:
    """Copy a base and a dataset into the package: they become the embedded default."""
    from sigma.studies.world import embed as module

    typer.echo(module.run(base=base, dataset=dataset))


@tools.command("closed-loop", rich_help_panel="Tools")
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
    from sigma.studies.world import base_success as module

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


@tools.command(rich_help_panel="Tools")
def export(
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    n_action_steps: Annotated[
        int | None, typer.Option(min=1, help="Control steps executed a decision [the most that the model allows].")
    ] = None,
    lower: Annotated[list[float] | None, typer.Option(help="Lower limit of a joint; repeat for each joint.")] = None,
    upper: Annotated[list[float] | None, typer.Option(help="Upper limit of a joint; repeat for each joint.")] = None,
    max_step: Annotated[
        float | None, typer.Option(min=0, help="Greatest change of a joint's target in a control step [300 units/s].")
    ] = None,
    clamp: Annotated[bool, typer.Option(help="Clamp actions to joint limits and rate.")] = True,
) -> None:
    """Write the trained Sigma as a LeRobot policy, for lerobot-eval and lerobot-rollout."""
    from sigma.tools import export as module

    typer.echo(
        module.run(
            output=output, n_action_steps=n_action_steps, lower=lower, upper=upper, max_step=max_step, clamp=clamp
        )
    )


profile = typer.Typer(cls=Panels, help="Shipped settings of params.yaml.", no_args_is_help=True)
tools.add_typer(profile, name="profile", rich_help_panel="Tools")
_PROFILED = typer.Option("--params", help="The parameter file.")


@profile.command("list")
def profile_list() -> None:
    """Name the shipped profiles."""
    from sigma.tools import profile as module

    typer.echo("\n".join(module.names()))


@profile.command("show")
def profile_show(name: Annotated[str, typer.Argument(help="A shipped profile.")]) -> None:
    """Print every parameter of a profile as YAML."""
    from sigma.tools import profile as module

    typer.echo(module.text_of(module.load(name)), nl=False)


@profile.command("diff")
def profile_diff(
    name: Annotated[str, typer.Argument(help="A shipped profile.")],
    params: Annotated[Path, _PROFILED] = Path("params.yaml"),
) -> None:
    """Print what differs: parameter, its value here, its value in the profile."""
    from sigma.tools import profile as module

    for key, here, there in module.differences(name, params):
        typer.echo(f"{key}: {json.dumps(here, ensure_ascii=False)} -> {json.dumps(there, ensure_ascii=False)}")


@profile.command("use")
def profile_use(
    name: Annotated[str, typer.Argument(help="A shipped profile.")],
    params: Annotated[Path, _PROFILED] = Path("params.yaml"),
    base_revision: Annotated[str | None, typer.Option(help="Commit of the profile's Hub base, 40 hex digits.")] = None,
    dataset_revision: Annotated[
        str | None, typer.Option(help="Commit of the profile's Hub dataset, 40 hex digits.")
    ] = None,
) -> None:
    """Write a profile into the parameter file; its comments stay."""
    from sigma.tools import profile as module

    typer.echo(module.use(name, params, {"base": base_revision, "dataset": dataset_revision}))


@tools.command(rich_help_panel="Tools")
def figures() -> None:
    """Fill the figures in README.md and stages/*/README.md from the metrics files."""
    from sigma.tools import figures as module

    typer.echo(module.run(root=Path()))


@tools.command(rich_help_panel="Tools")
def compare(
    revision: Annotated[str, typer.Argument(help="Commit whose metrics are compared with those here.")] = "HEAD",
    frozen_tolerance: Annotated[float, typer.Option(min=0, help="Relative, for numbers of the frozen base.")] = 1e-4,
    trained_tolerance: Annotated[float, typer.Option(min=0, help="Relative, for numbers behind a training.")] = 1e-2,
) -> None:
    """Say within what tolerance the metrics here agree with a commit's; status 1 if they do not."""
    from sigma.tools import compare as module

    table, agreed = module.run(
        revision=revision, frozen_tolerance=frozen_tolerance, trained_tolerance=trained_tolerance
    )
    typer.echo(table)
    raise typer.Exit(0 if agreed else 1)


@tools.command(rich_help_panel="Tools")
def publish(
    repository: Annotated[str, typer.Argument(help="Hub repository, owner/name; made where it is missing.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("models/published"),
    license: Annotated[str, typer.Option(help="The Hub's identifier of the files' licence.")] = "apache-2.0",
    private: Annotated[bool, typer.Option(help="Whether a repository that is made here is private.")] = True,
    closed_loop: Annotated[bool, typer.Option(help="Put metrics/rollout_sigma.json into the card too.")] = False,
    clamp: Annotated[
        bool,
        typer.Option(help="Joint and rate limits in the policy; --no-clamp for data in other units than LeRobot's."),
    ] = True,
    upload: Annotated[bool, typer.Option(help="Upload, or only write the folder.")] = True,
) -> None:
    """Write the trained Sigma as a folder for the Hub, with its model card, and upload it."""
    from sigma.parameters import read_parameters
    from sigma.tools import publish as module

    typer.echo(
        module.run(
            repository=repository,
            parameters=read_parameters(),
            folder=output,
            license=license,
            private=private,
            closed_loop=closed_loop,
            clamp=clamp,
            upload=upload,
        )
    )


@tools.command(rich_help_panel="Tools")
def plan(
    params: Annotated[Path, typer.Option(help="The parameter file.")] = Path("params.yaml"),
    profile: Annotated[str | None, typer.Option(help="Plan a shipped profile instead of the parameter file.")] = None,
    memory: Annotated[
        float | None, typer.Option(min=0, help="GiB of the device, instead of what is free here.")
    ] = None,
) -> None:
    """Say before any download what a run takes: parameters, memory by stage, disk; status 1 if it does not fit."""
    from rich.console import Console

    from sigma.parameters import read_parameters
    from sigma.tools import plan as module
    from sigma.tools.profile import load

    parameters = read_parameters(params) if profile is None else read_parameters(Path(profile), load(profile))
    found = module.run(parameters, memory=memory)
    module.show(found, Console())
    raise typer.Exit(1 if found.fits is False else 0)


@tools.command(rich_help_panel="Tools")
def rehearse(
    params: Annotated[Path, typer.Option(help="The parameter file.")] = Path("params.yaml"),
    profile: Annotated[str | None, typer.Option(help="Rehearse a shipped profile's sizes instead.")] = None,
) -> None:
    """Random weights at the base's own sizes: decide, train one step, save, reload; time and memory by part."""
    from sigma.parameters import read_parameters
    from sigma.tools import rehearse as module
    from sigma.tools.profile import load

    parameters = read_parameters(params) if profile is None else read_parameters(Path(profile), load(profile))
    module.run(parameters, report=typer.echo)
