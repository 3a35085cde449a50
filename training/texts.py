"""Prompts as the product's encoders see them: token numbers, and batches of states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, LlamaModel, PreTrainedTokenizerFast

from diffusers_helper.encoders.hunyuan import PROMPT_PREFIX, PROMPT_SUFFIX
from training.family import build_clip, build_llama
from training.tiny_tokenizers import clip_tokenizer, llama_tokenizer, save_clip, save_llama

USED_STATE = -3
"""Of Llama's hidden states, as in the product."""


@dataclass(frozen=True)
class Tokenizers:
    """The two tokenizers, with the template's pieces ready."""

    llama: PreTrainedTokenizerFast
    clip: CLIPTokenizer
    prefix: list[int]
    suffix: list[int]

    @classmethod
    def load(cls, folder: Path) -> Tokenizers:
        """Read what `save_tokenizers` wrote."""
        llama = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        clip = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        suffix = llama(PROMPT_SUFFIX, add_special_tokens=False).input_ids
        return cls(llama, clip, llama(PROMPT_PREFIX).input_ids, suffix)

    def llama_ids(self, captions: list[str]) -> list[list[int]]:
        """Tokens of each caption and the suffix, without the prefix."""
        return [ids + self.suffix for ids in self.llama(captions, add_special_tokens=False).input_ids]

    def clip_ids(self, captions: list[str]) -> list[list[int]]:
        """Tokens of each caption with begin and end marks."""
        return list(self.clip(captions).input_ids)


def save_tokenizers(folder: Path) -> None:
    """Make the tokenizers and write them as `tokenizer` and `tokenizer_2`."""
    save_llama(llama_tokenizer(), folder / "tokenizer")
    save_clip(clip_tokenizer(), folder / "tokenizer_2")


def padded(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows filled up with `value`, (B, L), and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), value)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids, lengths


class TextEncoders(nn.Module):
    """Llama and CLIP on batches of tokens."""

    def __init__(self, words: Tokenizers) -> None:
        super().__init__()
        self.llama: LlamaModel = build_llama(len(words.llama))
        self.clip: CLIPTextModel = build_clip(len(words.clip))
        self.register_buffer("prefix", torch.tensor(words.prefix), persistent=False)

    def states(self, ids: Tensor) -> Tensor:
        """Llama's states (B, L, width) of caption tokens (B, L); where a row ends plays no part before its end."""
        ids = torch.cat([self.prefix.expand(len(ids), -1), ids], dim=1)
        hidden = self.llama(ids, output_hidden_states=True, use_cache=False).hidden_states
        return hidden[USED_STATE][:, len(self.prefix) :]

    def pooled(self, ids: Tensor) -> Tensor:
        """CLIP's pooled vectors (B, width) of tokens (B, L), padded with the end mark."""
        return self.clip(ids).pooler_output
