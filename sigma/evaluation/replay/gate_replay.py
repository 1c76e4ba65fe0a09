"""What the gate measures of recorded episodes, and its calibration: train episodes as the reference, validation
episodes as ordinary decisions.

A recorded episode is read as a robot would live it: each decision comes after another, ``window.chunk`` steps before it
or, where no frame is stored so near, the last one that is.

Legend: F stored frames, V cameras, k axes of a picture, D joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigma.compute.processes import gather_parts
from sigma.policy.adapter.calibration import Calibration, calibrate
from sigma.policy.adapter.measures import disagreement, residual_size, telepathy_measures
from sigma.policy.adapter.novelty import Sight, fit_joints, fit_views, parts, project
from sigma.policy.adapter.words import Instructions, normalise_instruction
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.pi05.base_replay import batches as index_batches
from sigma.policy.pi05.instruction import embed_instructions
from sigma.policy.pi05.observation import place_views
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel

# Pictures from which the axes are fitted.
REFERENCE_FRAMES = 1024


@dataclass(frozen=True)
class GateReplay:
    """The gate's view of some stored frames, rows ``[F]`` in their order; ``parts`` and ``measured`` are by term."""

    frames: np.ndarray
    split: np.ndarray
    reference: dict[str, np.ndarray]
    tau_centre: float | None
    parts: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]


def stored_frames(batches: WindowBatches, episodes: np.ndarray) -> np.ndarray:
    """Ids of every stored frame of these episodes, ascending."""
    return np.flatnonzero(np.isin(batches.shards.frame_episode, episodes))


def measure_gate(batches: WindowBatches, frames: np.ndarray, decided: dict[str, np.ndarray], batch: int) -> GateReplay:
    """Measure stored frames (whole episodes, ascending), at which the model has ``decided``."""
    shards = batches.shards
    split_of = dict(zip(shards.window_episode.tolist(), batches.split.tolist(), strict=True))
    every = np.arange(len(shards.frame_step))
    split = np.array([split_of[episode] for episode in shards.frame_episode.tolist()])
    train = every[split == "train"]
    train = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), REFERENCE_FRAMES)).round().astype(int))]
    command = _commands(batches)
    reference = fit_views(np.concatenate(_features(batches, train, batch, "gate: reference")))
    reference |= fit_joints(_sight(batches, train, reference, batch, "gate: joints"), command[train])
    now = _sight(batches, frames, reference, batch, "gate: pictures")
    before = _before(batches, frames)
    row = np.maximum(before, 0)
    then = Sight(*(values[row] for values in vars(now).values()))
    found = parts(now, then, command[frames], before >= 0, reference)
    validation = split[frames] == "validation"
    centre = float(np.median(decided["tau_l2"][validation].astype(np.float64))) if "tau_l2" in decided else None
    measured = telepathy_measures(decided.get("tau"), decided.get("sem_align"), centre)
    plans, steps = decided["sigma_action"], shards.frame_step[frames]
    agreement = np.full(len(frames), -np.inf)
    passed = np.where(before >= 0, steps - steps[row], 0)
    for gap in np.unique(passed[before >= 0]).tolist():
        rows = np.flatnonzero((before >= 0) & (passed == gap))
        agreement[rows] = disagreement(plans[rows], plans[before[rows]], gap)
    return GateReplay(frames, split[frames], reference, centre, found, {**measured, "agreement": agreement})


def calibrate_gate(
    model: SigmaModel | FlowModel,
    batches: WindowBatches,
    gate: GateReplay,
    decided: dict[str, np.ndarray],
    base_instructions: Sequence[str],
) -> Calibration:
    """The calibration on validation episodes; instructions of train episodes are the known ones."""
    shards, chosen = batches.shards, gate.split == "validation"
    windows = np.flatnonzero(batches.split == "validation")
    row = np.searchsorted(gate.frames, shards.window_frame[windows])
    residual = decided["sigma_action"][row] - batches.columns["base_action"][windows]
    trained = sorted({shards.tasks[task] for task in shards.window_task[batches.split == "train"]})
    own = {normalise_instruction(text) for text in trained}
    texts = trained, [text for text in base_instructions if normalise_instruction(text) not in own]
    known, others = (list(dict.fromkeys(map(normalise_instruction, part))) for part in texts)
    embeddings = [_embed(model, batches, part) for part in (known, others)]
    scores = {term: values[chosen] for term, values in gate.measured.items()}
    return calibrate(
        parts={term: values[chosen] for term, values in gate.parts.items()},
        scores={**scores, "size": residual_size(residual)},
        tau_centre=gate.tau_centre,
        reference=gate.reference,
        instructions=Instructions(known, others, *embeddings),
        texts=texts,
        episodes=shards.frame_episode[gate.frames[chosen]],
    )


def score_gate(
    model: SigmaModel | FlowModel, batches: WindowBatches, gate: GateReplay, calibration: Calibration
) -> dict[str, np.ndarray]:
    """The score of every term but the residual's size, ``[F]``."""
    tasks = batches.shards.tasks
    words = calibration.instructions.measure(tasks, _embed(model, batches, tasks))
    told = {term: score[batches.shards.frame_task[gate.frames]] for term, score in words.items()}
    return {**calibration.scores(gate.parts), **gate.measured, **told}


def _embed(model: SigmaModel | FlowModel, batches: WindowBatches, texts: list[str]) -> np.ndarray:
    with lora.disabled(model.adapted if isinstance(model, SigmaModel) else model.tuned):
        return embed_instructions(batches.builder, [normalise_instruction(text) or text for text in texts])


def _features(batches: WindowBatches, frames: np.ndarray, batch: int, description: str) -> list[np.ndarray]:
    """Features of frames' pictures, float32 [n, V, 3d] a batch."""
    features = []
    for index in index_batches(len(frames), batch, description):
        vision = batches.builder.encode_images(batches.shards.images(frames[index]))
        features.append(place_views(vision).cpu().numpy())
    return gather_parts(features, len(range(0, len(frames), batch)))


def _sight(
    batches: WindowBatches, frames: np.ndarray, reference: dict[str, np.ndarray], batch: int, description: str
) -> Sight:
    shards = batches.shards
    seen = [project(features, reference) for features in _features(batches, frames, batch, description)]
    axes, distance = (np.concatenate(rows) for rows in zip(*seen, strict=True))
    state = shards.frame_state[frames]
    normalise = batches.builder.normalisation.state.normalise
    motion = normalise(shards.frame_trace[frames]) - normalise(state)[:, None]
    return Sight(axes, distance, state.astype(np.float64), motion.astype(np.float64))


def _before(batches: WindowBatches, frames: np.ndarray) -> np.ndarray:
    """Row of the decision before each of ``frames``, −1 at an episode's first ones."""
    shards, rows = batches.shards, np.full(len(frames), -1)
    steps, episodes = shards.frame_step[frames], shards.frame_episode[frames]
    order = np.lexsort((steps, episodes))
    # Steps of the ordered frames, those of each episode beyond all of the episode before.
    longest = int(steps.max()) + shards.meta["chunk"] + 1
    along = np.unique(episodes[order], return_inverse=True)[1] * longest + steps[order]
    earlier = np.searchsorted(along, along - shards.meta["chunk"], side="right") - 1
    known = (earlier >= 0) & (episodes[order[earlier]] == episodes[order])
    rows[order[known]] = order[earlier[known]]
    return rows


def _commands(batches: WindowBatches) -> np.ndarray:
    """What the control step before each stored frame asked for, raw units [F, D]; NaN where no window says it."""
    shards = batches.shards
    command = np.full((len(shards.frame_step), shards.window_action.shape[2]), np.nan)
    windows: dict[int, list[int]] = {}
    for window, episode in enumerate(shards.window_episode.tolist()):
        windows.setdefault(episode, []).append(window)
    for frame, episode in enumerate(shards.frame_episode.tolist()):
        for window in windows[episode]:
            passed = shards.frame_step[frame] - shards.window_step[window]
            if 1 <= passed <= shards.window_action.shape[1]:
                command[frame] = shards.window_action[window, passed - 1]
    return command
