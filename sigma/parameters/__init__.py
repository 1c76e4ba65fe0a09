"""``params.yaml`` as one typed value, one file a section. Every section is checked before any work starts; a check can
refuse a value, never change one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

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

    @model_validator(mode="after")
    def _fit_each_other(self) -> "Parameters":
        """Refuse more processes than an optimizer step has windows, random draws that sharing the windows would alter,
        and 16 bits twice. Processes that split the base's layers make every pass together, so each needs equally many
        windows.
        """
        processes, windows = self.machine.processes, self.train.batch * self.train.accumulation
        step = f"{windows} windows an optimizer step (train.batch × train.accumulation)"
        key = f"machine.processes: found {processes} with"
        if processes > windows:
            raise ValueError(f"{key} {step}; legal: integer from 1 to {windows}")
        if self.machine.fsdp and windows % processes:
            legal = f"a divisor of {windows}, or machine.fsdp false"
            raise ValueError(f"{key} machine.fsdp true and {step}, which must be shared out evenly; legal: {legal}")
        if processes > 1 and self.lora.dropout:
            reason = f"lora.dropout {self.lora.dropout}, whose masks are drawn for a whole batch"
            raise ValueError(f"{key} {reason}; legal: 1, or lora.dropout 0")
        if self.train.autocast and self.base.dtype != "float32":
            reason = f"base.dtype {self.base.dtype}, which computes so already"
            found = f"train.autocast: found {self.train.autocast} with"
            raise ValueError(f"{found} {reason}; legal: null, or base.dtype float32")
        return self


def read_parameters(path: Path | None = None, data: Mapping[str, Any] | None = None) -> Parameters:
    """The parameters of ``path`` (by default ``params.yaml`` of this folder), validated as a whole.

    If ``data`` is given, it is checked instead of the file's content, and errors name it ``path``.

    Raises:
        SigmaError: names the file, the key and the legal range.
    """
    path = path or PARAMS_FILE
    return validate(Parameters, read_yaml(path) if data is None else data, path)
