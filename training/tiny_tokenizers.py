"""Byte-level BPE tokenizers for the tiny models: any Unicode text goes through, common prompt words are one token each.

They have the real ones' pre-tokenization, special tokens and file layout with a vocabulary of about a thousand.
"""

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from diffusers_helper.encoders.hunyuan import CLIP_TOKENS, PROMPT_PREFIX
from training.captions import caption
from training.motions import draw_motion

LLAMA_SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"]
LLAMA_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
CAPTIONS = 20_000
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())

SUBJECTS = (
    "The girl", "The woman", "The man", "A boy", "A young dancer", "The old sailor", "A person in a red coat",
    "The lion", "A small dog", "The black cat", "A white horse", "The bird", "A robot", "The car", "A train",
    "A sailing ship", "The camera", "A flower", "The tree", "A bright ball", "A blue square", "The green circle",
    "A yellow triangle", "The purple star",
)  # fmt: skip
ACTIONS = (
    "dances gracefully, with clear movements, full of charm", "walks slowly forward", "runs across the street",
    "turns around and smiles", "waves both hands", "jumps up and down", "opens its eyes and looks at the viewer",
    "moves quickly from left to right", "moves slowly from right to left", "rises to the top", "falls to the bottom",
    "spins in the middle", "grows larger", "becomes smaller", "stays still", "rotates clockwise", "changes its color",
    "talks and laughs", "sings a song", "drinks a cup of tea", "eats an apple", "plays the guitar", "shakes its head",
    "zooms in", "pans over the background", "bounces off the edge", "flies through the air", "swims under water",
    "breathes calmly while the hair sways in the wind", "nods and blinks",
)  # fmt: skip
SCENES = (
    "on a sunny beach", "in a dark forest at night", "in front of a mountain lake", "on a stage with spotlights",
    "in the rain", "in a quiet room by the window", "under a cloudy sky", "in the snow", "on a busy city street",
    "against a plain gray background", "at sunset with warm light", "in an orange field of flowers",
    "between two tall buildings", "in outer space", "with smoke and fire behind", "with a shallow depth of field",
)  # fmt: skip


def corpus() -> list[str]:
    """Every subject doing everything everywhere, captions of motions, and the template: their words become tokens."""
    prompts = [f"{subject} {action} {scene}." for subject in SUBJECTS for action in ACTIONS for scene in SCENES]
    rng = random.Random(0)
    captions = [caption(draw_motion(rng), rng) for _ in range(CAPTIONS)]
    return [*prompts, *captions, *[PROMPT_PREFIX] * 100]


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with Llama 3's way of splitting; the begin mark is put in front, nothing behind."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(LLAMA_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), _trainer(BYTES))
    tokenizer.add_special_tokens(LLAMA_SPECIAL)
    begin = LLAMA_SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token="<|eot_id|>",
        pad_token="<pad>",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer as CLIP's: lower case, words end in </w>, start and end marks last in the vocabulary.

    The trainer orders bytes at a word's end differently in every run, and leaves out those it never saw, which would
    then read as the end mark. So while training, a stand-in character takes the place of each.
    """
    last = {byte: chr(0xE000 + index) for index, byte in enumerate(BYTES)}
    spelled = {byte: byte for byte in BYTES} | {stand_in: f"{byte}</w>" for byte, stand_in in last.items()}
    splitter = CLIPTokenizer().backend_tokenizer
    words = [
        word[:-1] + last[word[-1]]
        for text in corpus()
        for word, _ in splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
    ]
    trained = Tokenizer(BPE())
    trained.train_from_iterator(words, _trainer(list(spelled)))
    merges = [
        tuple("".join(spelled[character] for character in part) for part in merge)
        for merge in json.loads(trained.to_str())["model"]["merges"]
    ]
    tokens = [*spelled.values(), *("".join(merge) for merge in merges), *CLIP_SPECIAL]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_TOKENS)


def _trainer(alphabet: list[str]) -> BpeTrainer:
    """Merge until every word of the corpus is one token."""
    return BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, min_frequency=2, show_progress=False)


def save_llama(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json, and in its configuration the class name that the public repository has.

    The name is LlamaTokenizerFast, a class that has come to mean another way of splitting: who loads by that name
    loses the spaces, with the real files as with these.
    """
    tokenizer.save_pretrained(folder)
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text("utf-8")) | {"tokenizer_class": "LlamaTokenizerFast"}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def save_clip(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, as CLIP has always been published."""
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    tokenizer.backend_tokenizer.model.save(str(folder))
