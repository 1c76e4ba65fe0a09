"""``torch.compile`` for training: the parts of every layer that read no key-value cache.

The feed-forward blocks and norms of language model and action expert are compiled, once for all layers. Attention is
left as it is: it writes into a cache that differs from layer to layer, and each layer would be compiled anew.
"""

import os
import shutil

from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from sigma.shared.errors import SigmaError

PARTS = ("input_layernorm", "post_attention_layernorm", "mlp")


def compile_layers(policy: PI05Policy) -> None:
    """Have the layers' parts compiled at their first call; names of weights stay.

    Raises:
        SigmaError: there is no C++ compiler, which torch's own compiler works with.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise SigmaError(
            f"params.yaml: machine.compile: found true without a C++ compiler ({compiler} is not on the path); "
            "legal: false, or install g++"
        )
    towers = policy.model.paligemma_with_expert
    for model in (towers.paligemma.model.language_model, towers.gemma_expert.model):
        for layer in model.layers:
            for part in PARTS:
                getattr(layer, part).compile()
