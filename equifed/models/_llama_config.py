"""The sizes of a Llama, in one object that never changes."""

import dataclasses

from .._check import check_count, check_kind, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The sizes of a [`equifed.models.Llama`][].

    **Arguments:**

    - `vocab_size`: how many tokens there are.
    - `dim`: the width of a layer.
    - `num_layers`: the number of layers.
    - `num_heads`: the heads of queries.
    - `num_kv_heads`: the heads of keys and values, which must divide `num_heads`: each
        is shared by several heads of queries.
    - `mlp_size`: the width inside of a layer's perceptron.
    - `max_length`: the longest sequence.
    - `head_size`: the size of a head, an even number; `dim / num_heads` by default.
    - `rope_theta`: the base of the rotary positions.
    - `norm_eps`: what is added to the mean square in a normalisation.
    - `tied`: whether the logits are products with the embedding.

    **Raises:**

    `ValueError` if the sizes do not fit each other.
    """

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    max_length: int
    head_size: int | None = None
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads"):
            check_count(name, getattr(self, name))
        check_count("mlp_size", self.mlp_size)
        check_count("max_length", self.max_length)
        check_number("rope_theta", self.rope_theta, least=0, strict=True)
        check_number("norm_eps", self.norm_eps, least=0)
        check_kind("tied", self.tied, bool)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                "`num_kv_heads` must divide `num_heads`, got "
                f"{self.num_kv_heads} for {self.num_heads}."
            )
        if self.head_size is None and self.dim % self.num_heads:
            raise ValueError(
                "`num_heads` must divide `dim` where no `head_size` is given, got "
                f"{self.num_heads} for {self.dim}."
            )
        if check_count("head_size", self.size_of_head) % 2:
            raise ValueError(
                "A head must have an even size, for its numbers are turned in pairs, "
                f"got {self.size_of_head}."
            )

    @property
    def size_of_head(self) -> int:
        """`head_size`, or what follows for it."""
        return self.dim // self.num_heads if self.head_size is None else self.head_size
