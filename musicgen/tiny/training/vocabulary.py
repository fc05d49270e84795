"""The tokenizer: each word or key of the captions is one token; all other text becomes bytes."""

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from musicgen.tiny.music import SAYS
from musicgen.tiny.training.pieces import FILLERS, KEYS, KINDS, WITH
from musicgen.tiny.training.synth import VOICES

VOCABULARY = 512  # with the words
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
COMMON = """
a an and at beat big classical dark deep drum electric electronic guitar house in jazz of on piano
pop rock slow strings synth techno the to trumpet violin voice with
"""


def words() -> list[str]:
    """What captions are made of, in lower case: keys ("c# minor") and single words."""
    single = [*VOICES, *WITH, *KINDS, *(word for said in SAYS.values() for word in said)]
    single += ["with", "and", *(word for filler in FILLERS for word in filler.split())]
    return [key.lower() for key in KEYS] + sorted(set(single))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, in lower case and blind to commas; each prompt ends in </s>."""
    added = words()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[,.;:!]+(?= |$)"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(added),
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(COMMON.split(), trainer)
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=True) for word in added])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN
    )
