"""Is an instruction one that was trained? Two scores, 0 for every instruction that was.

``meaning`` compares what the frozen language model makes of it with what it makes of the trained instructions and of
the base's own; ``wording`` counts the words, and the pairs of neighbouring words, that no trained instruction has. Both
are needed: a small language model hardly hears the order of words, and says that a jumbled instruction is nearer than
an honest paraphrase; word pairs know nothing of meaning, and another task can be told in the same words. Own design.

Shapes: B instructions, m trained ones, d width of an embedding.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_NO_WORDS = re.compile(r"[\W_]+")
# Distances of one instruction to itself differ by rounding.
_FLOOR = 1e-9
# Trained instructions that are farther from each other are two tasks and no two wordings of one: nearer to another task
# of the base's, or with three tenths of their words and pairs new.
_FARTHEST_WORDING = {"meaning": 0.5, "wording": 0.3}


def normalise_instruction(text: str) -> str:
    """The words alone: small letters, one space between, no punctuation; compatible characters are one."""
    return _NO_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def word_pairs(text: str) -> list[tuple[str, str]]:
    """Neighbouring words of a normalised text, its beginning and end being words too."""
    words = ["", *text.split(), ""]
    return list(pairwise(words))


@dataclass(frozen=True, eq=False)
class Instructions:
    """The trained instructions ``known`` and the base's ``others``, normalised, with embeddings ``[m, d]``."""

    known: list[str]
    others: list[str]
    known_embeddings: np.ndarray
    other_embeddings: np.ndarray

    def measure(self, texts: Sequence[str], embeddings: np.ndarray) -> dict[str, np.ndarray]:
        """``meaning`` and ``wording`` of B instructions with embeddings ``[B, d]``, float64 ``[B]``.

        ``meaning`` is the cosine distance to the nearest trained instruction, as a share of its sum with the distance
        to the nearest of the others: one half is as near to another task as to this one. Where the base has no others
        it is the distance itself. ``wording`` is the share of new words plus the share of new pairs.
        """
        texts = [normalise_instruction(text) for text in texts]
        near = _nearest(embeddings, self.known_embeddings)
        meaning = near / (near + _nearest(embeddings, self.other_embeddings) + _FLOOR) if self.others else near
        words = {word for text in self.known for word in text.split()}
        pairs = {pair for text in self.known for pair in word_pairs(text)}
        new = [_share_of_new(text.split(), words) + _share_of_new(word_pairs(text), pairs) for text in texts]
        trained = np.isin(texts, self.known)
        return {"meaning": np.where(trained, 0.0, meaning), "wording": np.where(trained, 0.0, new)}

    def leave_one_out(self) -> dict[str, np.ndarray]:
        """The same of each trained instruction, had it not been trained, where another is a wording of it: ``[≤ m]``.

        An instruction far from all others is a task of its own: how a wording of it would look is not known.
        """
        scores = [{"meaning": np.empty(0), "wording": np.empty(0)}]
        for left in range(len(self.known) if len(self.known) > 1 else 0):
            rest = [index for index in range(len(self.known)) if index != left]
            without = Instructions(
                [self.known[index] for index in rest], self.others, self.known_embeddings[rest], self.other_embeddings
            )
            scores.append(without.measure([self.known[left]], self.known_embeddings[left : left + 1]))
        joined = {name: np.concatenate([score[name] for score in scores]) for name in scores[0]}
        near = np.all([joined[name] <= farthest for name, farthest in _FARTHEST_WORDING.items()], axis=0)
        return {name: score[near] for name, score in joined.items()}


def _share_of_new(found: Sequence, known: set) -> float:
    return float(np.mean([one not in known for one in found])) if len(found) else 1.0


def _nearest(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Cosine distance of each row ``[B, d]`` to the nearest of ``known [m, d]``; 0 where there is none."""
    if not len(known):
        return np.zeros(len(rows))
    unit = [np.asarray(part, dtype=np.float64) for part in (rows, known)]
    unit = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in unit]
    return np.clip(1.0 - (unit[0] @ unit[1].T).max(axis=1), 0.0, 2.0)
