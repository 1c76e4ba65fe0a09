"""Sigma: telepathy residuals on a frozen π0.5 policy, as a DVC pipeline of cached stages.

The public classes are imported on first use, so that ``import sigma`` loads no library:

>>> from sigma import SigmaTelepathyVLA, SigmaTelepathyAdapter
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"
__all__ = ["SigmaTelepathyAdapter", "SigmaTelepathyVLA", "__version__"]

_LAZY = {"SigmaTelepathyVLA": "sigma.policy.model.vla", "SigmaTelepathyAdapter": "sigma.policy.adapter.adapter"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sigma' has no attribute {name!r}")
