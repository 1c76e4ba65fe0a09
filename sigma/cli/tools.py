"""The commands that belong to no pipeline, and those that make a base."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer, echo

from sigma.cli.dispatch import command
from sigma.cli.help import Panels

if TYPE_CHECKING:
    from sigma.parameters import Parameters

tools = Typer()

_PANEL = "Tools"
_ParameterFile = Annotated[Path, Option(help="The parameter file.")]
_InsteadOfFile = Annotated[str | None, Option(help="A shipped profile to take instead of the parameter file.")]
_ProfileName = Annotated[str, Argument(help="A shipped profile.")]


@command(tools, _PANEL, "sigma.tools.simulate")
def simulate(
    output: Annotated[Path, Option(help="Folder of the new LeRobotDataset; must not exist.")],
    tasks: Annotated[list[str], Option("--task", help="Task to record; repeat for several.")] = ["pick_place"],  # noqa: B006
    episodes: Annotated[list[int], Option(help="Episodes of each task, one number for all or one a task.")] = [  # noqa: B006
        100
    ],
    seed: Annotated[int, Option(min=0, help="Seed of scenes, starts and noise.")] = 0,
    size: Annotated[int, Option(min=32, max=1024, help="Camera images, pixels a side.")] = 96,
    noise: Annotated[float, Option(min=0.0, help="Correlated noise on executed actions; labels stay clean.")] = 0.0,
    workers: Annotated[int, Option(min=1, help="Processes that simulate.")] = 2,
) -> None:
    """Record scripted demonstrations in the simulator as a LeRobotDataset v3.0."""


@command(tools, _PANEL, "sigma.studies.world.pretrain")
def pretrain(
    dataset: Annotated[Path, Option(help="LeRobotDataset of the base tasks.")],
    output: Annotated[Path, Option(help="Folder to write: the policy, its curve and a summary.")],
    params: Annotated[Path, Option(help="File with the section pretrain.")] = Path("stages/world/params.yaml"),
) -> None:
    """Train the small π0.5 from scratch and write it as a base."""


@command(tools, _PANEL, "sigma.studies.world.embed")
def embed(
    base: Annotated[Path, Option(help="Folder of the base policy.")] = Path("stages/world/out/pretrain/base"),
    dataset: Annotated[Path, Option(help="Folder of the target episodes.")] = Path("stages/world/out/dataset"),
) -> None:
    """Copy a base and a dataset into the package: they become the embedded default."""


@command(tools, _PANEL, "sigma.studies.world.base_success")
def closed_loop(
    base: Annotated[Path, Option(help="Folder of the base policy.")],
    output: Annotated[Path, Option(help="JSON file to write.")],
    tasks: Annotated[list[str], Option("--task", help="Task to roll out; repeat for several.")],
    seeds: Annotated[int, Option(min=1, help="Episodes of each task.")] = 50,
    first_seed: Annotated[int, Option(min=0, help="Seed of the first episode.")] = 0,
    execute: Annotated[int, Option(min=1, help="Steps of each chunk that are executed.")] = 8,
    samples: Annotated[int, Option(min=0, help="0: zero noise; n: mean of n seeded samples.")] = 0,
) -> None:
    """Roll out a base, trained and with random weights, on fresh episodes of several tasks."""


@command(tools, _PANEL, "sigma.tools.export")
def export(
    output: Annotated[Path, Option(help="Folder to write; must not exist.")],
    n_action_steps: Annotated[
        int | None, Option(min=1, help="Control steps executed a decision [the most that the model allows].")
    ] = None,
    lower: Annotated[list[float] | None, Option(help="Lower limit of a joint, for each joint [the data's].")] = None,
    upper: Annotated[list[float] | None, Option(help="Upper limit of a joint, for each joint [the data's].")] = None,
    max_step: Annotated[
        list[float] | None, Option(min=0, help="Greatest change of a target in a control step, one or each joint's.")
    ] = None,
    clamp: Annotated[bool, Option(help="Clamp actions to joint limits and speed.")] = True,
) -> None:
    """Write the trained Sigma as a LeRobot policy, for lerobot-eval and lerobot-rollout."""


@command(tools, _PANEL, "sigma.tools.merge")
def merge(
    lora: Annotated[Path, Argument(help="Folder of a LoRA checkpoint that LeRobot trained.")],
    output: Annotated[Path, Option(help="Folder to write; must not exist.")],
    base: Annotated[str | None, Option(help="Folder or Hub id of its base [the one that it names].")] = None,
    base_revision: Annotated[str | None, Option(help="Commit of a Hub base, 40 hex digits [the newest].")] = None,
) -> None:
    """Put a LoRA checkpoint and its base together, for fetch.base.source."""


profile = Typer(cls=Panels, help="Shipped settings of params.yaml.", no_args_is_help=True)
tools.add_typer(profile, name="profile", rich_help_panel=_PANEL)


@profile.command("list")
def profile_list() -> None:
    """Name the shipped profiles."""
    from sigma.tools.profile import names

    echo("\n".join(names()))


@profile.command("show")
def profile_show(name: _ProfileName) -> None:
    """Print every parameter of a profile as YAML."""
    from sigma.tools.profile import load, text_of

    echo(text_of(load(name)), nl=False)


@profile.command("diff")
def profile_diff(name: _ProfileName, params: _ParameterFile = Path("params.yaml")) -> None:
    """Print what differs: parameter, its value here, its value in the profile."""
    from sigma.tools.profile import differences

    for key, here, there in differences(name, params):
        echo(f"{key}: {json.dumps(here, ensure_ascii=False)} -> {json.dumps(there, ensure_ascii=False)}")


@profile.command("use")
def profile_use(
    name: _ProfileName,
    params: _ParameterFile = Path("params.yaml"),
    base_revision: Annotated[str | None, Option(help="Commit of the profile's Hub base, 40 hex digits.")] = None,
    dataset_revision: Annotated[str | None, Option(help="Commit of the profile's Hub dataset, 40 hex digits.")] = None,
) -> None:
    """Write a profile into the parameter file; its comments stay."""
    from sigma.tools.profile import use

    echo(use(name, params, {"base": base_revision, "dataset": dataset_revision}))


@command(tools, _PANEL, "sigma.tools.check")
def check(
    policy: Annotated[Path, Option(help="Folder that `sigma export` wrote.")],
    dataset: Annotated[Path, Option(help="Folder of a LeRobotDataset v3.0.")] = Path("data/dataset"),
    episodes: Annotated[int, Option(min=1, help="Episodes to lead the policy through, from the first on.")] = 3,
    rename_map: Annotated[str, Option(help="JSON: a camera of the dataset to its name in the policy.")] = "{}",
) -> None:
    """Say what the gate would do on recorded episodes, and why."""


@command(tools, _PANEL, "sigma.tools.figures")
def figures() -> dict[str, Any]:
    """Fill the figures in README.md and stages/*/README.md from the metrics files."""
    return {"root": Path()}


@tools.command(rich_help_panel=_PANEL)
def compare(
    revision: Annotated[str, Argument(help="Commit whose metrics are compared with those here.")] = "HEAD",
    frozen_tolerance: Annotated[float, Option(min=0, help="Relative, for numbers of the frozen base.")] = 1e-4,
    trained_tolerance: Annotated[float, Option(min=0, help="Relative, for numbers behind a training.")] = 1e-2,
) -> None:
    """Say within what tolerance the metrics here agree with a commit's; status 1 if they do not."""
    from sigma.tools.compare import run

    table, agreed = run(revision=revision, frozen_tolerance=frozen_tolerance, trained_tolerance=trained_tolerance)
    echo(table)
    raise Exit(0 if agreed else 1)


@command(tools, _PANEL, "sigma.tools.publish")
def publish(
    repository: Annotated[str, Argument(help="Hub repository, owner/name; made where it is missing.")],
    folder: Annotated[Path, Option("--output", help="Folder to write.")] = Path("models/published"),
    license: Annotated[str, Option(help="The Hub's identifier of the files' licence.")] = "apache-2.0",
    private: Annotated[bool, Option(help="Whether a repository that is made here is private.")] = True,
    rollouts: Annotated[list[Path], Option(help="Table of `sigma rollout` for the card; repeat for several.")] = [],  # noqa: B006
    upload: Annotated[bool, Option(help="Upload, or only write the folder.")] = True,
) -> dict[str, Any]:
    """Write the trained Sigma as a folder for the Hub, with its model card, and upload it."""
    return {"parameters": _parameters(Path("params.yaml"), None)}


def _parameters(file: Path, profile: str | None) -> "Parameters":
    """The parameters of a file, or those of a shipped profile."""
    from sigma.parameters import read_parameters
    from sigma.tools.profile import load

    return read_parameters(file) if profile is None else read_parameters(Path(profile), load(profile))


@tools.command(rich_help_panel=_PANEL)
def doctor(
    dataset: Annotated[str, Option(help="Folder of a LeRobotDataset v3.0, or a Hub id as owner/name@commit.")],
    base: Annotated[str, Option(help="Folder of a π0.5 checkpoint, or a Hub id as owner/name@commit.")] = "embedded",
    params: _ParameterFile = Path("params.yaml"),
    write: Annotated[bool, Option("--write", help="Set the values in the parameter file; its comments stay.")] = False,
) -> None:
    """Say in seconds what a dataset and a base are, what to set for them, what is refused; status 1 if something is."""
    from sigma.tools.doctor import run

    report, fits = run(_parameters(params, None), dataset=dataset, base=base, write=params if write else None)
    echo(report)
    raise Exit(0 if fits else 1)


@tools.command(rich_help_panel=_PANEL)
def plan(
    params: _ParameterFile = Path("params.yaml"),
    profile: _InsteadOfFile = None,
    memory: Annotated[float | None, Option(min=0, help="GiB of the device, instead of what is free here.")] = None,
) -> None:
    """Say before any download what a run takes: parameters, memory by stage, disk; status 1 if it does not fit."""
    from rich.console import Console

    from sigma.tools.plan import run, show

    result = run(_parameters(params, profile), memory=memory)
    show(result, Console())
    raise Exit(1 if result.fits is False else 0)


@tools.command(rich_help_panel=_PANEL)
def rehearse(params: _ParameterFile = Path("params.yaml"), profile: _InsteadOfFile = None) -> None:
    """Random weights at the base's own sizes: decide, train one step, save, reload; time and memory by part."""
    from sigma.tools.rehearse import run

    run(_parameters(params, profile), report=echo)
