"""Cleaning and checking of the instruction text that a policy is given."""

import unicodedata

from sigma.shared.errors import SigmaError


def clean_instruction(text: str) -> str:
    """The instruction as π0.5's prompt shows it: stripped, underscores and line breaks as spaces.

    Raises:
        SigmaError: the text is empty, or holds a control character or half of a surrogate pair.
    """
    cleaned = text.strip().replace("_", " ").replace("\n", " ")
    if not cleaned.strip():
        raise SigmaError(f"instruction {text!r} is empty; it must hold at least one word")
    for character in cleaned:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise SigmaError(f"instruction {text!r} holds the control character {character!r}; use printable text")
    return cleaned
