"""Prompts equal LeRobot's, every token knows its role, and nothing is cut or misread in silence."""

import logging

import numpy as np
import pytest
import torch
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot.processor import TokenizerProcessorStep
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sigma.policy.pi05.prompt import INSTRUCTION, STATE, Prompter
from sigma.policy.pi05.small.tokenizer import build_tokenizer, vocabulary
from sigma.shared.errors import SigmaError

TEXTS = ["lift the cube", "  put_the red\ncube in the box ", "Push, then reach: the Cube.", "carry it to box 2"]


def states() -> np.ndarray:
    values = np.random.default_rng(0).uniform(-1, 1, (len(TEXTS), 6)).astype(np.float32)
    values[0, :4] = (-1.0, 1.0, -1.5, 3.0)
    values[1, 0] = np.nextafter(np.float32(-1), np.float32(-2))
    return values


def lerobot_tokens(tokenizer, texts, values, length):
    transition = {
        TransitionKey.OBSERVATION: {"observation.state": torch.from_numpy(values)},
        TransitionKey.COMPLEMENTARY_DATA: {"task": list(texts)},
    }
    transition = Pi05PrepareStateTokenizerProcessorStep()(transition)
    observation = TokenizerProcessorStep(tokenizer=tokenizer, max_length=length)(transition)[TransitionKey.OBSERVATION]
    return observation["observation.language.tokens"], observation["observation.language.attention_mask"]


def subword_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces that carry the space before them and split words, with a start token: the manner of PaliGemma's."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    pieces = [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    corpus = [f"Task: {text}, State: -1 20 135;\nAction: " for text in TEXTS] * 3 + [str(n) for n in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=180, special_tokens=["<pad>", "<unk>", "<bos>"], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>")


@pytest.mark.parametrize("make", [build_tokenizer, subword_tokenizer])
def test_tokens_equal_lerobots_own_steps(make):
    tokenizer = make()
    prompt = Prompter(tokenizer, 160)(TEXTS, states())
    tokens, mask = lerobot_tokens(tokenizer, TEXTS, states(), 160)
    assert torch.equal(prompt.tokens, tokens)
    assert torch.equal(prompt.mask, mask)


@pytest.mark.parametrize("make", [build_tokenizer, subword_tokenizer])
def test_roles_cover_exactly_the_instruction_and_the_state(make):
    tokenizer = make()
    prompt = Prompter(tokenizer, 160)(TEXTS, states())
    for row, text in enumerate(TEXTS):

        def read(role, row=row):
            return tokenizer.decode(prompt.tokens[row][prompt.groups[row] == role]).replace(" ", "").lower()

        assert read(INSTRUCTION) == text.strip().replace("_", "").replace("\n", "").replace(" ", "").lower()
        numbers = np.digitize(states()[row], np.linspace(-1, 1, 257)[:-1]) - 1
        assert read(STATE) == "".join(map(str, numbers))
        assert not prompt.groups[row][~prompt.mask[row]].any()


def test_a_state_below_the_range_is_one_token_of_its_own():
    tokenizer = build_tokenizer()
    prompt = Prompter(tokenizer, 32)(["lift the cube"], np.array([[-1.2, -1.0, 0.0, 1.0, 2.0, 0.5]]))
    assert tokenizer.convert_ids_to_tokens(prompt.tokens[0][prompt.groups[0] == STATE]) == [
        "-1",
        "0",
        "128",
        "255",
        "255",
        "192",
    ]


def test_a_prompt_that_is_too_long_is_refused_with_its_instruction():
    prompter = Prompter(build_tokenizer(), 24)
    prompter(["lift the cube"], np.zeros((1, 6)))
    with pytest.raises(SigmaError, match=r"'lift the cub.*at most 24"):
        prompter(["lift the cube and put it into the red box on the left side"], np.zeros((1, 6)))


@pytest.mark.parametrize("text", ["lift\tthe cube", "lift \x1b[31mthe cube", "lift \ud800", "", " \n ", "__"])
def test_unusable_instructions_are_refused(text):
    with pytest.raises(SigmaError, match="instruction"):
        Prompter(build_tokenizer(), 32)([text], np.zeros((1, 6)))


def test_a_state_that_is_not_finite_is_refused():
    with pytest.raises(SigmaError, match="not finite"):
        Prompter(build_tokenizer(), 32)(["lift the cube"], np.full((1, 6), np.nan))


def test_unknown_words_are_counted_and_warned_about_once(caplog):
    prompter = Prompter(build_tokenizer(), 32)
    with caplog.at_level(logging.WARNING):
        prompter(["lift the axolotl"] * 2, np.zeros((2, 6)))
        prompter(["lift the cube"], np.zeros((1, 6)))
    assert prompter.unknown == {"axolotl": 2}
    assert sum("axolotl" in record.getMessage() for record in caplog.records) == 1


def test_the_saved_tokenizer_reads_as_the_built_one(tmp_path):
    built = build_tokenizer()
    built.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompts = [f"Task: {text}, State: -1 0 255;\nAction: " for text in TEXTS]
    assert loaded(prompts)["input_ids"] == built(prompts)["input_ids"]
    assert len(loaded) == len(vocabulary()) == len(set(vocabulary()))
