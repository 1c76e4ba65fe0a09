"""A π0.5 that flow matching alone trains: LoRA on language model and action expert, or every weight."""

from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import nn

from sigma.policy.pi05.observation import BasePass, Observation, base_pass

# Output embeddings of the two language models: the towers carry them, π0.5 reads neither.
_UNREAD = ".lm_head."


class FlowModel(nn.Module):
    """The policy with what is trained of it; no heads, no telepathy.

    ``tuned`` is the policy under LoRA, or, with all of its weights to be trained, the policy itself.
    """

    def __init__(self, tuned: PeftModel | PI05Policy):
        super().__init__()
        self.tuned = tuned

    @property
    def whole(self) -> bool:
        """Whether every weight is trained, those of the vision tower included."""
        return not isinstance(self.tuned, PeftModel)

    @property
    def policy(self) -> PI05Policy:
        return self.tuned if self.whole else self.tuned.get_base_model()

    def adapted_pass(self, observation: Observation) -> BasePass:
        """The policy's own prefix, as it is trained."""
        return base_pass(self.policy, observation)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that flow matching trains, by name, in a stable order."""
        named = sorted(self.tuned.named_parameters())
        if self.whole:
            return {name: parameter for name, parameter in named if _UNREAD not in f".{name}"}
        return {name: parameter for name, parameter in named if ".lora_" in name}
