"""π0.5's text prompt: the instruction and the discretised state, tokenised, with the role of every token.

Shapes: B batch, L prompt length in tokens, D state dim.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sigma.shared.errors import SigmaError
from sigma.shared.instructions import clean_instruction

OTHER, INSTRUCTION, STATE = 0, 1, 2
"""Roles of a prompt token: frame words and padding, the instruction's text, the discretised state."""

_BIN_EDGES = np.linspace(-1, 1, 256 + 1)[:-1]
_HEAD, _MIDDLE, _TAIL = "Task: ", ", State: ", ";\nAction: "

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """Tokens ``[B, L]`` int64, mask ``[B, L]`` bool (true where a token stands), groups ``[B, L]`` int8 (its role)."""

    tokens: Tensor
    mask: Tensor
    groups: Tensor


def discretise_state(states: np.ndarray) -> np.ndarray:
    """Bins 0…255 of normalised states ``[B, D]`` over [−1, 1]; −1 below the range, 255 above it."""
    if not np.isfinite(states).all():
        raise SigmaError("a state holds a value that is not finite; it cannot be written into the prompt")
    return np.digitize(states, bins=_BIN_EDGES) - 1


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder; raises :class:`SigmaError` where it is broken or gives no character offsets."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a wide family; all of them mean that the files are not a tokenizer's
        raise SigmaError(f"{folder}: not readable as a tokenizer ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SigmaError(f"{folder}: the tokenizer gives no character offsets; a tokenizer.json is needed")
    return tokenizer


class Prompter:
    """Writes and tokenises prompts exactly as LeRobot's π0.5 pre-processor does, and marks each token's role.

    ``unknown`` counts the words that the tokenizer does not know; each is logged as a warning when first seen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.unknown: Counter[str] = Counter()

    def __call__(self, texts: Sequence[str], states_normalised: np.ndarray) -> Prompt:
        """Prompts of B instructions and normalised states ``[B, D]``.

        Raises:
            SigmaError: an unusable instruction, or a prompt longer than ``max_length`` tokens (never cut).
        """
        states = np.asarray(states_normalised)
        if states.ndim != 2 or len(states) != len(texts):
            raise SigmaError(f"{len(texts)} instructions need states of shape [{len(texts)}, D], found {states.shape}")
        instructions = [clean_instruction(text) for text in texts]
        numbers = [" ".join(map(str, row)) for row in discretise_state(states)]
        prompts = [f"{_HEAD}{text}{_MIDDLE}{state}{_TAIL}" for text, state in zip(instructions, numbers, strict=True)]
        encoded = self.tokenizer(prompts, return_offsets_mapping=True, truncation=False, padding=False)

        shape = (len(prompts), self.max_length)
        tokens = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        mask, groups = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int8)
        for row, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
            if len(ids) > self.max_length:
                raise SigmaError(
                    f"instruction {short(texts[row])} makes a prompt of {len(ids)} tokens with the state of "
                    f"{states.shape[1]} joints; the policy reads at most {self.max_length}; shorten the instruction"
                )
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
            text_end = len(_HEAD) + len(instructions[row])
            state_start = text_end + len(_MIDDLE)
            parts = ((len(_HEAD), text_end, INSTRUCTION), (state_start, state_start + len(numbers[row]), STATE))
            for start, end, role in parts:
                # A token may carry the space before it, so one shared character decides.
                groups[row, : len(ids)][[first < end and last > start for first, last in offsets]] = role
            for word in self.unknown_words(ids, offsets, prompts[row]):
                if word not in self.unknown:
                    log.warning("the policy's tokenizer does not know the word %r; it reads it as <unk>", word)
                self.unknown[word] += 1
        return Prompt(torch.from_numpy(tokens), torch.from_numpy(mask), torch.from_numpy(groups))

    def unknown_words(self, ids: list[int], offsets: list[tuple[int, int]], text: str) -> list[str]:
        """The words of a tokenised text that the tokenizer does not know."""
        unknown = self.tokenizer.unk_token_id
        return [text[start:end] for token, (start, end) in zip(ids, offsets, strict=True) if token == unknown]
