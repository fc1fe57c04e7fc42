"""Symbols and their numbers, in one object for the data, the metrics and the model.

Where each of them had constants of its own, the numbers of one would drift from those
of another, and an accuracy "without the end of sentence" would leave out some letter.
"""

import dataclasses
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from .._check import check_count, checked
from .._words import shown


# The characters of Shakespeare's plays in the order of TensorFlow Federated, which
# FedJAX follows: models trained there have their embeddings and logits in it.
_SHAKESPEARE = (
    "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ"
    '"&*.26:\naeimquyAEIMQUY]!%)-159\r'
)


@dataclasses.dataclass(frozen=True, repr=False)
class Vocabulary:
    """The symbols (characters, or words) of a text, and their numbers.

    0 is padding, 1 begins a text, 2 ends it; the symbols follow from 3 in their order,
    and then the buckets of what is none of them. That is the numbering of FedJAX and of
    TensorFlow Federated.

    !!! example

        ```python
        vocabulary = eqf.data.Vocabulary(("to", "be", "or", "not"))
        vocabulary.encode("to be or else".split())  # [3, 4, 5, 7]
        vocabulary.size  # 8
        ```
    """

    symbols: tuple[str, ...]
    num_oov: int
    """How many numbers there are for what is no symbol."""
    _ids: dict[str, int] = dataclasses.field(compare=False)

    @checked()
    def __init__(self, symbols: Iterable[str], *, num_oov: int = 1):
        """**Arguments:**

        - `symbols`: the characters (text is its characters) or words, all different.
        - `num_oov`: the number of buckets for what is none of them. Which one it is
            follows from the CRC-32 of its UTF-8: the same everywhere, but not that of
            TensorFlow.

        **Raises:**

        `ValueError` if two symbols are the same or one is empty, or there is none.
        """
        symbols = tuple(symbols)
        for symbol in symbols:
            if not isinstance(symbol, str) or not symbol:
                raise ValueError(
                    f"`symbols` must be text that is not empty, got {shown(symbol)}."
                )
        if not symbols:
            raise ValueError("`symbols` must hold one symbol at least, got none.")
        ids = {symbol: 3 + i for i, symbol in enumerate(symbols)}
        if len(ids) < len(symbols):
            twice = next(x for i, x in enumerate(symbols) if ids[x] != 3 + i)
            raise ValueError(
                f"`symbols` must be all different, got {twice!r} twice. Write "
                "`dict.fromkeys(symbols)`."
            )
        object.__setattr__(self, "symbols", symbols)
        object.__setattr__(self, "num_oov", check_count("num_oov", num_oov))
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def shakespeare(cls) -> "Vocabulary":
        """The 86 characters of TensorFlow Federated's Shakespeare, in its order: 90
        numbers, of which the last is anything else."""
        return cls(_SHAKESPEARE)

    @property
    def pad(self) -> int:
        """The number of padding: 0."""
        return 0

    @property
    def bos(self) -> int:
        """The number that begins a text: 1."""
        return 1

    @property
    def eos(self) -> int:
        """The number that ends a text: 2."""
        return 2

    @property
    def oov(self) -> tuple[int, ...]:
        """The numbers of what is no symbol."""
        first = 3 + len(self.symbols)
        return tuple(range(first, first + self.num_oov))

    @property
    def special(self) -> tuple[int, ...]:
        """The numbers that are no symbols': padding, beginning, end, and `oov`."""
        return (self.pad, self.bos, self.eos, *self.oov)

    @property
    def size(self) -> int:
        """How many numbers there are, and so how many logits a model has."""
        return 3 + len(self.symbols) + self.num_oov

    def encode(self, text: str | Sequence[str]) -> Int[np.ndarray, " length"]:
        """The numbers of symbols, without a beginning and an end.

        **Arguments:**

        - `text`: text, if the symbols are characters; or symbols one by one.

        **Raises:**

        `TypeError` if it is neither, or text where the symbols are words.
        """
        if isinstance(text, str) and any(len(x) > 1 for x in self.symbols):
            raise TypeError(
                "`text` must be a list of words, for the symbols are words, got "
                f"{shown(text)}. Split it: `text.split()`."
            )
        if not isinstance(text, Iterable) or isinstance(text, bytes):
            raise TypeError(f"`text` must be text or a list of it, got {shown(text)}.")
        return np.fromiter(map(self._number, text), np.int32)

    def _number(self, symbol: str) -> int:
        if not isinstance(symbol, str):
            raise TypeError(f"`text` must be made of text, got {shown(symbol)}.")
        found = self._ids.get(symbol)
        if found is not None:
            return found
        bucket = zlib.crc32(symbol.encode("utf-8", "surrogatepass")) % self.num_oov
        return self.oov[0] + bucket

    def decode(self, ids: Iterable[int] | Int[np.ndarray, " length"]) -> list[str]:
        """The symbols of numbers; others are `"<pad>"`, `"<bos>"`, `"<eos>"` and
        `"<oov>"`.

        **Raises:**

        `ValueError` if a number is none of the vocabulary's.
        """
        names = ("<pad>", "<bos>", "<eos>", *self.symbols)
        numbers = [check_count("ids", x, least=0, most=self.size - 1) for x in ids]
        return [names[i] if i < len(names) else "<oov>" for i in numbers]

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.symbols):,} symbols, {self.num_oov} oov)"
