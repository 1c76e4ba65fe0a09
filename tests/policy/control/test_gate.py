"""What the gate closes on, on a trained model and recorded episodes; and what it says of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_calibration
from sigma.policy.control import gate
from sigma.policy.control.controller import BaseController
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.model import lora
from sigma.policy.pi05 import prefix
from tests.policy.control.test_sigma_controller import STRIDE, calibration, observations
from tests.worlds import World

View = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def live(trained):
    vla = trained.vla()
    return SigmaController(
        vla, adapter=SigmaTelepathyAdapter(), calibration=calibration(trained), n_action_steps=STRIDE
    )


def recorded_command(world: World, episode: int, step: int) -> np.ndarray | None:
    """The recorded action before this step: what led to its state, whatever the model would have done."""
    shards = world.shards
    windows = np.flatnonzero((shards.window_episode == episode) & (shards.window_step < step))
    passed = step - shards.window_step[windows[-1]]
    return shards.window_action[windows[-1], passed - 1] if passed <= shards.window_action.shape[1] else None


def scales(world: World, live, alter: Callable[[dict, int], dict], *, first: int = 0) -> np.ndarray:
    """The scale at each decision of every held-out episode from number ``first`` on, altered as a fault would."""
    found = []
    for episode in (*world.shards.meta["splits"]["validation"], *world.shards.meta["splits"]["test"]):
        live.reset([0])
        last = world.shards.frame_step[world.shards.frame_episode == episode].max()
        for number, step in enumerate(range(0, last + 1, STRIDE)):
            live.act([alter(observations(world, episode, step), number)], [0])
            if (told := recorded_command(world, episode, step + STRIDE)) is not None:
                live.gate.follow(0, told)
        found += [judged.scale for judged in live.gate.robots[0].judgements[first:]]
    return np.array(found)


def pictures(change: Callable[[View], View]) -> Callable[[dict, int], dict]:
    return lambda seen, number: {**seen, "images": change(seen["images"])}


def noise(picture: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict, int], dict]:
    return pictures(lambda views: {name: change(picture) for name, picture in views.items()})


FAULTS = {
    "black": each(lambda picture: picture * 0),
    "white noise": each(noise),
    "swapped": pictures(lambda views: dict(zip(views, reversed(views.values()), strict=True))),
    "upside down": each(lambda picture: picture[::-1, ::-1]),
    "one camera black": pictures(lambda views: {name: views[name] * (name == min(views)) for name in views}),
}


@torch.no_grad()
def test_recorded_decisions_pass_and_pictures_that_were_never_seen_close_the_gate(trained, live):
    assert np.median(scales(trained, live, lambda seen, number: seen)) >= 0.95
    for name, alter in FAULTS.items():
        assert np.median(scales(trained, live, alter)) <= 0.1, name


@torch.no_grad()
def test_a_frozen_camera_and_joints_that_are_off_close_the_gate(trained, live):
    first: dict[int, dict] = {}

    def freeze(seen: dict, number: int) -> dict:
        if number == 0:
            first[0] = seen["images"]
        return {**seen, "images": first[0]}

    # The first picture is the recorded one.
    assert np.median(scales(trained, live, freeze, first=1)) <= 0.1
    half = np.ptp(trained.shards.frame_state, axis=0) / 2
    for joint in range(len(half)):
        off = half * (np.arange(len(half)) == joint)

        def shift(seen: dict, number: int, off: np.ndarray = off) -> dict:
            return {**seen, "state": seen["state"] + off, "trace": seen["trace"] + off}

        assert np.median(scales(trained, live, shift, first=1)) <= 0.1, joint


@torch.no_grad()
def test_the_same_words_pass_however_they_are_written_and_other_words_close_the_gate(trained, live):
    seen = observations(trained, trained.shards.meta["splits"]["validation"][0], 0)

    def acted(task: str) -> tuple[np.ndarray, float]:
        live.reset([0])
        plan = live.act([{**seen, "task": task}], [0])
        return plan, live.gate.robots[0].judgements[0].scale

    text = seen["task"]
    plain, scale = acted(text)
    assert scale >= 0.95
    for written in (f"{text}.", text.title(), text.replace(" ", "  ")):
        plan, same = acted(written)
        assert same == scale
        np.testing.assert_array_equal(plan, plain)
    base = set(trained.configure().base.instructions) - set(trained.shards.tasks)
    for other in (" ".join(reversed(text.split())), "open the drawer", *base):
        assert acted(other)[1] <= 0.1, other
    # An untrained text is read as the trained ones were: by its words alone.
    assert live.gate._measure_words("Open the drawer.") == live.gate._measure_words("open the drawer")


@torch.no_grad()
def test_a_plan_that_began_late_is_compared_where_it_was_executed(trained, live, monkeypatch):
    passed = []
    monkeypatch.setattr(gate, "disagreement", lambda plan, before, steps: passed.append(steps) or np.zeros(len(plan)))
    episode = trained.shards.meta["splits"]["validation"][0]
    for late in (0, 1):
        live.reset([0])
        live.act([observations(trained, episode, 0)], [0])
        live.gate.follow(0, recorded_command(trained, episode, STRIDE), late=late)
        live.act([observations(trained, episode, STRIDE)], [0])
    assert passed == [STRIDE, STRIDE - 1]


@torch.no_grad()
def test_an_action_that_is_not_finite_is_the_bases(trained, live, monkeypatch):
    """At an episode's first decision no other term could notice it."""
    seen = observations(trained, trained.shards.meta["splits"]["validation"][0], 0)
    base = BaseController(trained.base(), n_action_steps=STRIDE)
    base.reset([0])
    integrate = prefix.integrate
    monkeypatch.setattr(
        prefix,
        "integrate",
        lambda policy, encoded, noise, steps, steering=None: (
            integrate(policy, encoded, noise, steps, steering) * (1.0 if steering is None else float("nan"))
        ),
    )
    live.reset([0])
    np.testing.assert_array_equal(live.act([seen], [0]), base.act([seen], [0])[:, : live.horizon])


@torch.no_grad()
def test_what_is_executed_decides_what_is_integrated_and_a_closed_gate_is_told_once_an_episode(
    trained, live, monkeypatch
):
    passes: list[str] = []
    for name in ("frozen_pass", "adapted_pass"):
        plain = getattr(live.vla.model, name)
        monkeypatch.setattr(
            live.vla.model, name, lambda *given, plain=plain, name=name: passes.append(name) or plain(*given)
        )
    seen = observations(trained, trained.shards.meta["splits"]["validation"][0], 0)
    black = FAULTS["black"](seen, 0)
    base = BaseController(trained.base(), n_action_steps=STRIDE)
    base.reset([7])
    live.reset([7])
    live.news()
    live.act([seen], [7])
    assert passes == ["adapted_pass"] and live.news() == []
    passes.clear()
    live.reset([7])
    plan = live.act([black], [7])
    assert passes == ["frozen_pass"]
    np.testing.assert_array_equal(plan, base.act([black], [7])[:, : plan.shape[1]])
    (line,) = live.news()
    assert line.startswith("robot 7, step 0: scale 0.00, for a camera's picture is unlike") and "(picture, p " in line
    live.act([black], [7])
    assert live.news() == []


@torch.no_grad()
def test_plain_lora_stands_behind_the_same_gate(trained, live):
    """Without telepathy's own terms: what the calibration of a Sigma knows of these alone."""
    base, folder = trained.base(), trained.root / "models/sigma"
    tuned = lora.load(base.policy, folder)
    adapter = SigmaTelepathyAdapter(calibration=read_calibration(calibration(trained)))
    gated = BaseController(base, tuned=tuned, adapter=adapter, n_action_steps=STRIDE)
    plain = BaseController(base, n_action_steps=STRIDE)
    frozen = BaseController(trained.base(), n_action_steps=STRIDE)
    seen = observations(trained, trained.shards.meta["splits"]["validation"][0], 0)
    for robot in (gated, plain, frozen):
        robot.reset([0])
    np.testing.assert_array_equal(gated.act([seen], [0]), plain.act([seen], [0]))
    black = FAULTS["black"](seen, 0)
    np.testing.assert_array_equal(gated.act([black], [0]), frozen.act([black], [0]))
