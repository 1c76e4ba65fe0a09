"""LeRobot processors of the small π0.5: π0.5's own steps, with a tokenizer that travels inside the saved pipeline."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot.processor import (
    PolicyProcessorPipeline,
    TokenizerProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from sigma.policy.pi05.small.configuration_pi05_small import PI05SmallConfig
from sigma.policy.pi05.small.tokenizer import PAD, UNKNOWN, build_tokenizer
from sigma.shared.errors import SigmaError


@dataclass
class EmbeddedTokenizerProcessorStep(TokenizerProcessorStep):
    """LeRobot's tokenizer step, whose tokenizer is stored in the step's configuration instead of named by a path.

    A path would tie a saved policy to the folder it was saved in, and a Hub name would need the network.
    """

    # Without a registered name LeRobot saves the import path, so the pipeline loads wherever sigma is installed.
    _registry_name: ClassVar[str | None] = None

    tokenizer: PreTrainedTokenizerFast | None = None
    tokenizer_json: str | None = None
    # Truncation would drop the end of the state silently; a prompt that is too long is refused below.
    truncation: bool = field(default=False, init=False)

    def __post_init__(self):
        if self.tokenizer is None and self.tokenizer_json is not None:
            backend = Tokenizer.from_str(self.tokenizer_json)
            self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN)
        super().__post_init__()

    def _tokenize_text(self, text: str | list[str]) -> dict[str, torch.Tensor]:
        texts = [text] if isinstance(text, str) else text
        for prompt in texts:
            length = len(self.input_tokenizer(prompt)["input_ids"])
            if length > self.max_length:
                raise SigmaError(
                    f"the prompt {prompt!r} has {length} tokens; the policy reads at most {self.max_length}"
                )
        return super()._tokenize_text(texts)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("truncation")
        config.pop("tokenizer_name", None)
        return {**config, "tokenizer_json": self.input_tokenizer.backend_tokenizer.to_str()}


def make_pi05_small_pre_post_processors(
    config: PI05SmallConfig,
    dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> tuple[PolicyProcessorPipeline[Any, Any], PolicyProcessorPipeline[Any, Any]]:
    """Pre- and post-processor in π0.5's order; LeRobot's factory finds this function by its name.

    ``dataset_stats`` are ``q01`` and ``q99`` of ``observation.state`` and ``action``; the tokenizer is by default that
    of :func:`build_tokenizer`. Raises :class:`SigmaError` for relative actions.
    """
    if config.use_relative_actions:
        raise SigmaError("use_relative_actions: the small π0.5 predicts absolute actions; legal: false")
    tokenizer = tokenizer or build_tokenizer()
    steps = make_default_policy_processor_steps(config, dataset_stats)
    return make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            # The prompt writes the state in bins of [-1, 1], so normalisation comes first.
            steps.normalize,
            Pi05PrepareStateTokenizerProcessorStep(max_state_dim=config.max_state_dim),
            EmbeddedTokenizerProcessorStep(
                tokenizer=tokenizer or build_tokenizer(), max_length=config.tokenizer_max_length
            ),
            steps.to_device,
        ],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
