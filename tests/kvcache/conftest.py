from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from tests.kvcache.families import make_model
from tests.models.tiny import TEXTS


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    pytest.importorskip("transformers", reason="needs the extra `local`")
    module: ModuleType = pytest.importorskip("torch", reason="needs the extra `local`")
    return module


@pytest.fixture(scope="session")
def family(torch: ModuleType) -> Callable[[str], Any]:
    """Tiny models by the name of their family, each made once."""
    return cache(make_model)


@pytest.fixture(scope="session")
def tokenizer(torch: ModuleType) -> Any:
    """Of bytes and their pairs, 320 tokens; puts <bos> before a text."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>")
