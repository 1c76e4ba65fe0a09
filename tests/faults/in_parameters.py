"""Faults in ``params.yaml`` and in the environment."""

import os

from tests.faults.case import Fault, Project, content, gone, parameters, together, windowed

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def added(text: str):
    """Text at the end of params.yaml."""

    def inject(project: Project) -> None:
        file = project.path("params.yaml")
        file.write_text(file.read_text() + text)

    return inject


def environment(**values: str):
    return lambda project: os.environ.update(values)


def as_folder(project: Project) -> None:
    project.remove("params.yaml")
    project.path("params.yaml").mkdir()


FAULTS = [
    Fault("unknown key", "fetch", parameters(lora__colour=1), "params.yaml: lora.colour: unknown key; lora has …rank"),
    Fault("unknown section", "fetch", added("wings: {}\n"), "params.yaml: unknown section 'wings'; the sections are …"),
    Fault(
        "word for a number",
        "fetch",
        parameters(lora__rank="many"),
        "params.yaml: lora.rank: input should be a valid integer, found 'many'; legal: integer ≥ 1 and ≤ 1024",
    ),
    Fault(
        "truth value for a number",
        "fetch",
        parameters(train__steps=True),
        "params.yaml: train.steps: input should be a valid integer, found True; legal: …",
    ),
    Fault(
        "value out of range, of a later stage",
        "fetch",
        parameters(adapter__max_scale=2.0),
        "params.yaml: adapter.max_scale: …, found 2.0; legal: number ≥ 0 and ≤ 1",
    ),
    Fault(
        "infinite number",
        "fetch",
        parameters(train__clip=float("inf")),
        "params.yaml: train.clip: input should be a finite number, found inf; legal: number > 0",
    ),
    Fault("number of 5000 digits", "fetch", added("machine2: " + "9" * 5000 + "\n"), "params.yaml: not valid YAML: …"),
    Fault("day that no month has", "fetch", added("wings: 2001-99-99\n"), "params.yaml: not valid YAML: …"),
    Fault("mapping as a key", "fetch", added("? {a: 1}\n: 2\n"), "params.yaml: …"),
    Fault(
        "lower bound above the upper",
        "report",
        parameters(adapter={"min_scale": 0.9, "max_scale": 0.5}),
        "params.yaml: adapter: max_scale must not lie below min_scale (0.9)",
    ),
    Fault(
        "chunk longer than the horizon",
        "window",
        parameters(window__chunk=9),
        "params.yaml: window.chunk: the chunk must not be longer than window.horizon (8), found 9; legal: …",
    ),
    Fault(
        "focus below the share of hard windows",
        "finetune",
        parameters(loss__traf={"top_k": 0.5, "focus": 0.2}),
        "params.yaml: loss.traf: focus (0.2) below top_k (0.5) would weight hard windows down; legal: …",
    ),
    Fault(
        "no span to learn from",
        "finetune",
        parameters(loss={"vec": 0.0, "chk": 0.0, "trj": 0.0}),
        "params.yaml: loss: vec, chk and trj are all 0, so that nothing is learned; legal: at least one above 0",
    ),
    Fault(
        "horizon beyond the base's chunk",
        "fetch",
        parameters(window={"horizon": 32, "eval_stride": 32}),
        "params.yaml: window.horizon: 32 steps, but the base predicts 16; legal: 1 to 16",
    ),
    Fault(
        "no episode left to train on",
        "fetch",
        parameters(window__test=6),
        "params.yaml: window.validation + window.test: 2 + 6 episodes leave none of 8 for training; legal: …",
    ),
    Fault(
        "residual branch that is not there",
        "finetune",
        parameters(telepathy__branches=["condition", "gripper"]),
        "params.yaml: telepathy.branches.1: input should be 'condition', 'vector', 'chunk' or 'trajectory', found …",
    ),
    Fault(
        "key of the first version",
        "window",
        parameters(window__history=4),
        "params.yaml: window.history: unknown key; window has …memory_stride…",
    ),
    Fault(
        "joint that is not there",
        "fetch",
        parameters(window__exclude_joints=["tail.pos"]),
        "params.yaml: window.exclude_joints: no joint 'tail.pos'; legal: shoulder_pan.pos, …",
    ),
    Fault(
        "camera that the dataset lacks",
        "fetch",
        parameters(window__cameras={"observation.images.up": "observation.images.roof"}),
        "params.yaml: window.cameras.observation.images.up: …no 'observation.images.roof'; legal: null …",
    ),
    Fault(
        "episode that is not there",
        "audit",
        parameters(audit__exclude=[99]),
        "params.yaml: audit.exclude: no episode 99; legal: 0 to 7",
    ),
    Fault(
        "one validation episode, with which nothing can be calibrated",
        "fetch",
        parameters(window__validation=0.1),
        "params.yaml: window.validation: 1 of 8 episodes; legal: at least 2 (or 0 for both …",
    ),
    Fault(
        "no test episode",
        "fetch",
        parameters(window__test=0),
        "params.yaml: window.test: 0 of 8 episodes; legal: at least 1 (or 0 for both …",
    ),
    Fault(
        "no held-out episodes, which counts windows and trains nothing",
        "baseline",
        together(parameters(window__validation=0, window__test=0), windowed),
        "data/shards: no episode is held out, so nothing can be trained; hold some out by params.yaml: …",
    ),
    Fault(
        "16 bits of a base in 16 bits",
        "fetch",
        parameters(base__dtype="bfloat16", train__autocast="bfloat16"),
        "params.yaml: train.autocast: found bfloat16 with base.dtype bfloat16, which …; legal: null, …",
    ),
    Fault(
        "revision of a folder",
        "fetch",
        parameters(fetch__dataset__revision="0" * 40),
        "params.yaml: fetch.dataset.revision: 'recorded' is a folder, only a Hub id has a revision; legal: null",
    ),
    Fault("duplicate key", "fetch", added("lora: {}\n"), "params.yaml: not valid YAML: …duplicate key…"),
    Fault(
        "empty file", "fetch", content("params.yaml", ""), "params.yaml: expected a mapping of sections, found NoneType"
    ),
    Fault("not YAML", "fetch", content("params.yaml", "fetch: [1\n"), "params.yaml: not valid YAML: …"),
    Fault("not text", "fetch", content("params.yaml", b"\xff\xfe\x00"), "params.yaml: not readable (…"),
    Fault("two documents", "fetch", added("---\na: 1\n"), "params.yaml: not valid YAML: …"),
    Fault(
        "aliases that explode",
        "fetch",
        content("params.yaml", ALIASES),
        "params.yaml: line 1: anchors and aliases are not used here; write the values out",
    ),
    Fault(
        "too deep to be meant",
        "fetch",
        content("params.yaml", "a: " + "[" * 9000),
        "params.yaml: not valid YAML: line 1: nested deeper than 20 levels",
    ),
    Fault(
        "missing file", "fetch", gone("params.yaml"), "params.yaml: not found; run the command from the project's root"
    ),
    Fault("a folder of that name", "fetch", as_folder, "params.yaml: not readable (…"),
    Fault(
        "sigma_env without a separator",
        "fetch",
        content("sigma_env", "HF_HOME\n"),
        "sigma_env: line 1: expected KEY=VALUE",
    ),
    Fault("sigma_env that is not text", "fetch", content("sigma_env", b"A=\xff\n"), "sigma_env: not readable (…"),
    Fault("sigma_env with a NUL", "fetch", content("sigma_env", "SIGMA_X=a\0b\n"), "sigma_env: line 1: …"),
    Fault(
        "one process that is to split the base",
        "finetune",
        parameters(machine__fsdp=True),
        "params.yaml: machine…fsdp: found true with one process; legal: false, or machine.processes of 2 and more",
    ),
    Fault(
        "windows that processes cannot share evenly",
        "fetch",
        parameters(machine__fsdp=True, machine__processes=3),
        "params.yaml: machine.processes: found 3 with machine.fsdp true and 8 windows an optimizer step …",
    ),
    Fault(
        "unknown device in the environment",
        "baseline",
        together(parameters(machine__device="auto"), environment(SIGMA_DEVICE="tpu")),
        "SIGMA_DEVICE: found 'tpu'; legal: auto, cpu, cuda",
    ),
]
