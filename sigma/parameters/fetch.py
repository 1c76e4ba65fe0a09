"""Section ``fetch``: where dataset and base come from."""

from pydantic import Field

from sigma.parameters.schema import Section


class Origin(Section):
    """Where something comes from: ``embedded``, a local folder, or a Hub id with a 40-hex revision."""

    source: str = Field(min_length=1)
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")


class FetchParameters(Section):
    dataset: Origin
    base: Origin
