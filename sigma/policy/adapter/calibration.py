"""What ordinary decisions look like: made from train windows as reference and validation windows as calibration.

Two files: a JSON that a person can read, and arrays beside it as safetensors, tied to it by a digest.

Shapes: W windows, q parts of a score (cameras, joints), m trained instructions, d width of an embedding. Own design.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.policy.adapter.conformal import Ordinary
from sigma.policy.adapter.words import Instructions, normalise_instruction
from sigma.shared.errors import SigmaError
from sigma.shared.files import Outputs, digest_file, read_json
from sigma.shared.records import AGAIN, NUMBER, POSITIVE, check_record

FORMAT_VERSION = 4
LEAST_EPISODES = 2
# Shares and ratios: other instructions may lie this much farther than the trained ones lie from each other.
WORDS_TAIL = 0.05
# Of a term that no validation decision has, so that nothing is ordinary or unusual of it.
UNJUDGED = 1e30
_FORM = {
    **dict.fromkeys(("windows", "episodes"), int),
    **{key: [str] for key in ("instructions", "base_instructions")},
    "tau_l2_median": POSITIVE | None,
    "terms": dict,
    "reference": {"file": str, "sha256": str},
    "model": str,
}
_TERM = {"ordinary": int, "largest": NUMBER | None, "tail": POSITIVE}


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the adapter and the gate compare a decision with.

    ``record`` is the JSON file's content, ``ordinary`` has the scores of each term, ``units [q]`` are the 95 %
    quantiles of the parts of those terms that have several, ``reference`` are the arrays of
    :mod:`sigma.policy.adapter.novelty`, and ``instructions`` the known ones.
    """

    record: dict[str, Any]
    ordinary: dict[str, Ordinary]
    units: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    instructions: Instructions

    @property
    def tau_centre(self) -> float | None:
        return self.record["tau_l2_median"]

    def scores(self, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The score of each term ``[B]``: its most unusual part, in units of that part."""
        return worst_parts(parts, self.units)

    def trained_text(self, text: str) -> str:
        """The trained instruction that differs from this one in case, punctuation or spaces alone; else the text."""
        return self._spelling.get(normalise_instruction(text), text)

    @property
    def _spelling(self) -> dict[str, str]:
        return {normalise_instruction(text): text for text in reversed(self.record["instructions"])}


def worst_parts(parts: Mapping[str, np.ndarray], units: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The largest part ``[W, q]`` of each term, in the units ``[q]`` of its parts: ``[W]``."""
    return {term: (rows / units[term]).max(axis=1) for term, rows in parts.items()}


def calibrate(
    *,
    parts: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    tau_centre: float | None,
    reference: Mapping[str, np.ndarray],
    instructions: Instructions,
    texts: tuple[list[str], list[str]],
    episodes: np.ndarray,
) -> Calibration:
    """From validation windows: ``parts [W, q]`` and ``scores [W']`` by term, where −inf is a score that could not be
    measured.

    ``tau_centre`` is the median norm of the factors, None for a model without telepathy; ``texts`` are the trained
    instructions as they were written, and the base's; ``episodes [W]`` are those of the windows. Raises
    :class:`SigmaError` for fewer than two episodes and for scores that are not finite.
    """
    count = len(np.unique(episodes))
    if count < LEAST_EPISODES:
        raise SigmaError(
            f"adapter calibration: found {count} validation episode; legal: at least {LEAST_EPISODES} "
            "(params.yaml: window.validation)"
        )
    measured = {term: rows[~np.isneginf(rows).any(axis=1)] for term, rows in parts.items()}
    units = {}
    for term, rows in measured.items():
        _check(rows, term)
        units[term] = np.maximum(np.quantile(rows, 0.95, axis=0), 1e-6) if len(rows) else np.ones(rows.shape[1])
    found = worst_parts(measured, units) | {term: values[~np.isneginf(values)] for term, values in scores.items()}
    ordinary = {}
    for term, values in found.items():
        _check(values, term)
        ordinary[term] = Ordinary.of(values) if len(values) else Ordinary(UNJUDGED)
    ordinary |= {term: Ordinary.of(values, WORDS_TAIL) for term, values in instructions.leave_one_out().items()}
    record = {
        "format_version": FORMAT_VERSION,
        "windows": len(episodes),
        "episodes": count,
        "instructions": texts[0],
        "base_instructions": texts[1],
        "tau_l2_median": tau_centre,
        "terms": {
            term: {
                "ordinary": len(known.scores),
                "largest": float(known.scores[-1]) if len(known.scores) else None,
                "tail": known.tail,
            }
            for term, known in ordinary.items()
        },
    }
    return Calibration(record, ordinary, units, dict(reference), instructions)


def _check(values: np.ndarray, term: str) -> None:
    if not np.isfinite(values).all():
        raise SigmaError(f"adapter calibration: the term {term} of a validation window is not finite")


def weights_digest(model: Path) -> str:
    """SHA-256 over the names and bytes of a model folder's weights, in hex."""
    digest = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")):
        digest.update(file.name.encode() + b"\0" + bytes.fromhex(digest_file(file)))
    return digest.hexdigest()


def write_calibration(path: Path, calibration: Calibration, model: Path) -> None:
    """Write the record as JSON to ``path`` and the arrays beside it as safetensors, tied to each other and to the
    weights in the folder ``model`` by digests."""
    from safetensors.numpy import save_file

    tensors = {f"reference.{name}": array for name, array in calibration.reference.items()}
    tensors |= {f"unit.{term}": unit for term, unit in calibration.units.items()}
    tensors |= {f"ordinary.{term}": known.scores for term, known in calibration.ordinary.items()}
    words = calibration.instructions
    tensors |= {"instructions.known": words.known_embeddings, "instructions.others": words.other_embeddings}
    arrays = Path(path).with_suffix(".safetensors")
    with Outputs() as outputs:
        temporary = outputs.file(arrays)
        save_file({name: np.ascontiguousarray(array, dtype=np.float64) for name, array in tensors.items()}, temporary)
        digest = digest_file(temporary)
        tied = {"reference": {"file": arrays.name, "sha256": digest}, "model": weights_digest(model)}
        outputs.json(path, {**calibration.record, **tied})


def read_calibration(path: Path, model: Path | None = None) -> Calibration:
    """What :func:`write_calibration` wrote to ``path``; another format version, what is no calibration, altered arrays
    and, where ``model`` is given, the calibration of other weights are refused."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    record = read_json(path)
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise SigmaError(f"{path}: format_version: found {version!r}; legal: {FORMAT_VERSION}; {AGAIN}")
    check_record(record, _FORM, f"{path}: ", AGAIN)
    for term, entry in record["terms"].items():
        check_record(entry, _TERM, f"{path}: ", AGAIN, f"terms.{term}")
    if model is not None and record["model"] != weights_digest(model):
        raise SigmaError(f"{path}: was made with other weights than those in {model}; {AGAIN}")
    arrays = Path(path).with_suffix(".safetensors")
    entry = record["reference"]
    if entry["file"] != arrays.name:
        raise SigmaError(f"{path}: reference.file: found {entry['file']!r}; legal: {arrays.name}; {AGAIN}")
    if not arrays.is_file() or digest_file(arrays) != entry["sha256"]:
        raise SigmaError(f"{arrays}: missing or altered since {Path(path).name} was written; run the stage again")
    try:
        tensors = load_file(arrays)
    except SafetensorError as error:
        raise SigmaError(f"{arrays}: not readable as safetensors ({error})") from None

    def group(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}

    scores, words = group("ordinary."), group("instructions.")
    if scores.keys() != record["terms"].keys() or len(words) != 2:
        raise SigmaError(f"{arrays}: holds other terms than {Path(path).name}; {AGAIN}")
    ordinary = {term: Ordinary(record["terms"][term]["tail"], values) for term, values in scores.items()}
    known, others = (
        list(dict.fromkeys(map(normalise_instruction, record[key]))) for key in ("instructions", "base_instructions")
    )
    instructions = Instructions(known, others, words["known"], words["others"])
    return Calibration(record, ordinary, group("unit."), group("reference."), instructions)
