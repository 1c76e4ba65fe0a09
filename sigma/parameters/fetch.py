"""Section ``fetch``: where dataset and base come from."""

import re

from pydantic import Field, field_validator

from sigma.parameters.schema import Section

VECTORS = "observation.state", "action"


class Origin(Section):
    """Where something comes from: ``embedded``, a local folder, or a Hub id with a 40-hex revision."""

    source: str = Field(min_length=1)
    revision: str | None

    @field_validator("revision")
    @classmethod
    def _is_a_commit(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError(
                "a branch or tag may change; legal: null for a folder, or a commit of 40 hex digits, which "
                "`git ls-remote https://huggingface.co/OWNER/NAME` prints (of a dataset …/datasets/OWNER/NAME)"
            )
        return revision


class DatasetOrigin(Origin):
    """Where a dataset comes from, and its own names of the state and the action where they are not LeRobot's."""

    keys: dict[str, str]

    @field_validator("keys")
    @classmethod
    def _of_vectors(cls, keys: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(keys) - set(VECTORS)):
            raise ValueError(f"no feature {unknown[0]!r} is mapped here; legal: {', '.join(VECTORS)}")
        return keys


class FurtherOrigin(Origin):
    """Where training episodes beside the dataset's come from, and whether a policy acted in them and was corrected."""

    corrections: bool


class FetchParameters(Section):
    dataset: DatasetOrigin
    further: tuple[FurtherOrigin, ...] = Field(strict=False)
    base: Origin
    start: str | None = Field(min_length=1)
