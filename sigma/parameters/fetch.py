"""Section ``fetch``: where dataset and base come from."""

from pydantic import Field, field_validator

from sigma.parameters.schema import Section

VECTORS = "observation.state", "action"


class Origin(Section):
    """Where something comes from: ``embedded``, a local folder, or a Hub id with a 40-hex revision."""

    source: str = Field(min_length=1)
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")


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
