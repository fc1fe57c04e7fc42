"""Newton's method for the logistic loss, with a line search."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._linalg import dot, is_positive


# Ten are many. On the way to infinity it takes as many as there are.
MAX_STEPS = 60
MAX_HALVINGS = 30


def newton(
    signed: Float[Array, "examples dim"],
    weights: Float[Array, " examples"],
    l2: Float[Array, ""],
) -> Float[Array, " dim"]:
    r"""The minimum of $\sum_j r_j \log(1 + e^{-a_j^\top w}) + \frac\lambda2 \lVert w
    \rVert^2$, or NaN if it is not found.

    **Arguments:**

    - `signed`: the rows $a_j$: features, negated where the label is 0.
    - `weights`: the weights $r_j$.
    - `l2`: the regularisation $\lambda$.
    """
    dim, dtype = signed.shape[1], signed.dtype
    eps = float(jnp.finfo(dtype).eps)
    # In units in which all features are alike, so that the size of a step tells.
    units = jnp.sqrt(jnp.mean(signed**2, axis=0))
    units = jnp.where(units > 0, units, 1)
    signed = signed / units[None, :]
    ridge = l2 / units**2

    def value(w):
        losses = jax.nn.softplus(-dot(signed, w))
        return dot(weights, losses) + dot(ridge * w, w) / 2

    def derivatives(w):
        z = dot(signed, w)
        wrong = jax.nn.sigmoid(-z)
        gradient = ridge * w - dot(signed.T, weights * wrong)
        curvature = weights * wrong * jax.nn.sigmoid(z)
        return gradient, dot(signed.T, curvature[:, None] * signed) + jnp.diag(ridge)

    def search(w, step, slope):
        start = value(w)
        # Close to the minimum the decrease is lost in rounding, the step is still good.
        slack = 10 * eps * jnp.abs(start)

        def too_long(carry):
            scale, halvings = carry
            bound = start - 1e-4 * scale * slope + slack
            return (value(w - scale * step) > bound) & (halvings < MAX_HALVINGS)

        def halve(carry):
            scale, halvings = carry
            return scale / 2, halvings + 1

        return jax.lax.while_loop(too_long, halve, (jnp.ones((), dtype), 0))[0]

    def goes_on(carry):
        w, size, count = carry
        far = size > eps**0.5 * (1 + jnp.linalg.norm(w))
        return far & (count < MAX_STEPS)

    def body(carry):
        w, _, count = carry
        gradient, hessian = derivatives(w)
        step = jnp.linalg.solve(hessian, gradient)
        w = w - search(w, step, dot(gradient, step)) * step
        return w, jnp.linalg.norm(step), count + 1

    start = (jnp.zeros(dim, dtype), jnp.full((), jnp.inf, dtype), 0)
    w, size, _ = jax.lax.while_loop(goes_on, body, start)
    arrived = size <= eps**0.5 * (1 + jnp.linalg.norm(w))
    # Where several are as good, it may have arrived at one.
    arrived &= is_positive(derivatives(w)[1])
    return jnp.where(arrived, w / units, jnp.nan)
