"""``params.yaml`` as one typed value, one file a section. Every section is checked before any work starts; a check can
refuse a value, never change one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.parameters.adapter import AdapterParameters
from sigma.parameters.audit import AuditParameters
from sigma.parameters.base import BaseParameters
from sigma.parameters.fetch import FetchParameters
from sigma.parameters.machine import MachineParameters
from sigma.parameters.report import ReportParameters
from sigma.parameters.schema import PARAMS_FILE, Section, read_sections, read_yaml, validate
from sigma.parameters.telepathy import TelepathyParameters
from sigma.parameters.training import LoraParameters, LossParameters, TrainParameters
from sigma.parameters.window import WindowParameters

__all__ = ["PARAMS_FILE", "Parameters", "Section", "read_parameters", "read_sections", "read_yaml", "validate"]


class Parameters(Section):
    """Every section of ``params.yaml``."""

    fetch: FetchParameters
    audit: AuditParameters
    window: WindowParameters
    base: BaseParameters
    train: TrainParameters
    lora: LoraParameters
    telepathy: TelepathyParameters
    loss: LossParameters
    adapter: AdapterParameters
    report: ReportParameters
    machine: MachineParameters


def read_parameters(path: Path | None = None, data: Mapping[str, Any] | None = None) -> Parameters:
    """The parameters of ``path`` (by default ``params.yaml`` of this folder), validated as a whole.

    If ``data`` is given, it is checked instead of the file's content, and errors name it ``path``.

    Raises:
        SigmaError: names the file, the key and the legal range.
    """
    path = path or PARAMS_FILE
    return validate(Parameters, read_yaml(path) if data is None else data, path)
