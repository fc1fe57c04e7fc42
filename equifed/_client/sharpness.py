"""Sharpness-aware minimisation, as a correction of the gradient."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import number
from .._tree import safe_divide, tree_add_scaled, tree_norm
from .correction import AbstractMemoryless


class SharpnessAware(AbstractMemoryless):
    r"""The gradient of the same batch where the loss is highest nearby:
    $\nabla f\big(\theta + \rho\, g / \lVert g \rVert\big)$, with $g = \nabla f(\theta)$
    and the norm that of all leaves together (Foret et al., 2021, arXiv 2010.01412).

    It takes two gradients a step. Where $g$ is 0, it is used as it is.
    """

    rho: Float[Array, ""] = eqx.field(converter=number("rho", least=0))

    def begin(self, params, shared, state, gradient):
        return None

    def correct(self, grads, params, carry, gradient):
        scale = safe_divide(self.rho.astype(jnp.result_type(float)), tree_norm(grads))
        return gradient(tree_add_scaled(params, scale, grads)), carry
