"""The sizes of a BERT, in one object that never changes."""

import dataclasses

from .._check import check_count, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The sizes of a [`equifed.models.Bert`][].

    **Arguments:**

    - `vocab_size`: how many tokens there are.
    - `dim`: the width of a layer.
    - `num_layers`: the number of layers.
    - `num_heads`: the heads of attention, which must divide `dim`.
    - `mlp_size`: the width inside of a layer's perceptron.
    - `max_length`: the longest sequence.
    - `num_types`: how many kinds of segments there are.
    - `norm_eps`: what is added to the variance in a normalisation.

    **Raises:**

    `ValueError` if the sizes do not fit each other.
    """

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    mlp_size: int
    max_length: int
    num_types: int = 2
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "mlp_size"):
            check_count(name, getattr(self, name))
        check_count("max_length", self.max_length)
        check_count("num_types", self.num_types)
        check_number("norm_eps", self.norm_eps, least=0)
        if self.dim % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide `dim`, got {self.num_heads} for {self.dim}."
            )
