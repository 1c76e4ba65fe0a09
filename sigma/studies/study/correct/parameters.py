"""What the study of corrections collects, trains and plays: ``corrections`` in stages/corrections/params.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sigma.parameters import read_sections
from sigma.parameters.schema import Section
from sigma.studies.study.cells.parameters import Count, Names, Played, Seed

Way = Literal["before", "continued", "demonstrations", "retrained", "twice"]


class CorrectionParameters(Section):
    """See the comments in the file."""

    tasks: Names
    arms: Names
    ways: list[Way] = Field(min_length=1)
    seeds: Annotated[list[Seed], Field(min_length=1)]
    settings: Names
    episodes: Count
    steps: Count
    patience: float = Field(ge=0.8, le=600)
    played: Played


class CorrectionFile(Section):
    corrections: CorrectionParameters


def read_corrections(params: Path) -> CorrectionParameters:
    """The section ``corrections``."""
    return read_sections(CorrectionFile, params).corrections


def row_name(arm: str, way: str) -> str:
    """An arm after a round."""
    return f"{arm}_{way}"
