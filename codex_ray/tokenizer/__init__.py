"""SentencePiece tokenizers that give back the very text they encoded, and the same ids in Transformers."""

from codex_ray.tokenizer.stream import StreamDecoder
from codex_ray.tokenizer.tokenizer import Tokenizer
from codex_ray.tokenizer.training import train_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "train_tokenizer"]
