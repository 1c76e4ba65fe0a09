"""``params.yaml`` as typed sections, one file a section. They can refuse a value, never change one."""

from sigma.parameters.schema import PARAMS_FILE, Section, read_sections, read_yaml, validate
from sigma.parameters.whole import Parameters, read_parameters

__all__ = ["PARAMS_FILE", "Parameters", "Section", "read_parameters", "read_sections", "read_yaml", "validate"]
