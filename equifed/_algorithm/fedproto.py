"""FedProto: clients share what the classes look like, and no model."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float

from .._aggregator import UniformMean
from .._check import as_number, check_count, checked
from .._client import AbstractClient, AbstractCriterion, AbstractWrapper, LocalSGD
from .._client.outputs import (
    as_column,
    labels_of,
    masked_mean,
    nan_where,
    Outputs,
    outputs_of,
)
from .._lookups import Numbered
from .._optim import OptimLike
from .._round import Beginning
from .._tree import tree_add, wide_dtype
from .._types import Example, Loss, Model
from .._wire import AbstractPayload, Broadcast, Message
from ..data import AbstractBatching
from .base import NOT_KEPT
from .of_client import _AbstractOfClient


class _Sums(AbstractPayload):
    """What a client says of the classes: by class the sum of its representations, and
    how many they are."""

    additive: ClassVar[bool] = True
    total: Float[Array, "classes features"]
    count: Float[Array, " classes"]


class _Prototypes(eqx.Module):
    """A mean representation of each class, and whether there is one: 1 or 0."""

    mean: Float[Array, "classes features"]
    known: Float[Array, " classes"]

    def updated(self, sums: _Sums) -> "_Prototypes":
        there = sums.count > 0
        count = jnp.where(there, sums.count, 1)[:, None]
        mean = jnp.where(there[:, None], sums.total / count, self.mean)
        return _Prototypes(mean, jnp.where(there, 1, self.known))


class _Classes(eqx.Module):
    """What makes representations of examples, and classes of their labels."""

    representation: Outputs
    label: Callable
    num_classes: int
    num_features: int

    def of(
        self, model: Model, examples: Example, mask: Bool[Array, " batch"], keys: Array
    ) -> tuple[Float[Array, "batch features"], Float[Array, "batch classes"]]:
        """The representations of a batch, 0 where there is no example, and the classes
        as ones among zeros."""
        z = outputs_of("representation", self.representation, model, examples, keys)
        if z.shape[-1] != self.num_features:
            raise ValueError(
                "`num_features` must be the length of what `representation` makes, "
                f"{z.shape[-1]}, got {self.num_features}."
            )
        z = z.astype(wide_dtype(z.dtype))
        labels, valid = labels_of("label", self.label, examples, self.num_classes)
        # NaN of an example is NaN of all classes, and is found out.
        z = jnp.where(mask[:, None], nan_where(mask & ~valid, z), 0)
        hot = jax.nn.one_hot(labels, self.num_classes, dtype=z.dtype)
        return z, jnp.where(mask[:, None], hot, 0)


class _NearPrototypes(AbstractCriterion):
    r"""The mean loss and $\lambda$ times the mean squared distance of representations
    from their class's prototype, where there is one."""

    classes: _Classes
    lam: Float[Array, ""]

    def begin(self, broadcast, data):
        return broadcast.shared

    def value(self, loss, model, examples, mask, given, *, keys):
        z, hot = self.classes.of(model, examples, mask, keys)
        mean, known = (x.astype(z.dtype) for x in (given.mean, given.known))
        near = jnp.matmul(hot, mean, precision="highest")
        there = jnp.matmul(hot, known[:, None], precision="highest")
        apart = masked_mean(jnp.mean(there * (z - near) ** 2, -1), mask)
        return loss + self.lam.astype(loss.dtype) * apart.astype(loss.dtype)


class _SaysClasses(AbstractWrapper):
    """Trains a model of its own, and says what the classes look like to it."""

    client: LocalSGD
    classes: _Classes

    def __init__(self, client: LocalSGD, classes: _Classes):
        self.client = client
        self.classes = classes

    def init(self, params):
        return params

    def payload(self, params):
        size, dtype = self.classes.num_classes, jnp.result_type(float)
        total = jnp.zeros((size, self.classes.num_features), dtype)
        return _Sums(total, jnp.zeros(size, dtype))

    def round(self, broadcast, data, state, *, key):
        key, look_key = jr.split(key)
        start = Broadcast(state, broadcast.rest, broadcast.params)
        message, _, metrics = self.client.round(start, data, None, key=key)
        params = tree_add(state, message.payload)
        model = eqx.combine(params, broadcast.rest)
        size = data.batch_size

        def look(sums, examples, mask, i):
            keys = jr.split(jr.fold_in(look_key, i), size)
            z, hot = self.classes.of(model, examples, mask, keys)
            total = jnp.matmul(hot.T, z, precision="highest")
            return tree_add(sums, _Sums(total, hot.sum(0)))

        sums = data.fold_examples(look, self.payload(None), batch_size=size)
        return Message(sums, message.weight), params, metrics


class FedProto(_AbstractOfClient):
    r"""Federated prototype learning: each client has a model of its own, and clients
    tell one another what the classes look like.

    A client's prototype $C_i^{(j)}$ is its model's mean representation of its examples
    of class $j$. The server has the mean $\bar C^{(j)}$ over all these examples of the
    clients that took part. From its own last model, client $i$ takes local steps down

    $$\frac{1}{|B|} \sum_{e \in B} \Big(\ell(\theta, e) + \frac{\lambda}{d} \big\lVert
    z_\theta(e) - \bar C^{(y_e)} \big\rVert^2\Big),$$

    with the representations $z$ of $d$ numbers; an example whose class has no prototype
    yet adds nothing to the second term. Then it goes over its examples once more, and
    sends its prototypes, with its numbers of examples: no model ever travels. A class
    that nobody has in a round keeps its last prototype. The metrics are those of the
    loss alone.

    Two things the paper leaves open. Of its second term, a sum over classes of the
    distances of the client's prototypes from the server's, it does not say how it is
    taken on a batch: here it is as in its authors' program, for which $\lambda = 1$ is.
    And its formula for the server's mean, by numbers of examples, divides by the number
    of clients once more, which would bring prototypes nearer to 0 the more clients
    there are: here it does not.

    Clients may have models of unlike architecture, whose representations have the same
    length: let the model hold one of each, and take by a column of the examples that
    says which is the client's. The others stay as they are, but each client keeps them,
    and in a block of several clients all of them are computed:

        def __call__(self, x, kind):
            kinds = [lambda x: self.small(x), lambda x: self.large(x)]
            return jax.lax.switch(kind, kinds, x)

    `algorithm.own_model(state, kept)` is the client's model. There is no one model that
    is trained: `algorithm.model(state)` is `None`. `state.server` has the prototypes,
    `mean`, and whether there is one, `known`.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `representation`: `representation(model, example, key)`, a vector: what the last
        layer is given, in the paper.
    - `num_classes`, `num_features`: how many classes there are, and the length of a
        representation.
    - `label`: the name of the column of labels, or a function of one example. A label
        that is no class is refused by name where this hands on a column; where it
        computes it, the client's message is NaN, which is found out.
    - `lam`: $\lambda \ge 0$; at 0 each client trains alone.

    ??? cite "Reference"

        Algorithm 1 of [FedProto: Federated Prototype Learning across Heterogeneous
        Clients](https://arxiv.org/abs/2105.00243)

        ```bibtex
        @inproceedings{tan2022fedproto,
            title={{FedProto}: {F}ederated {P}rototype {L}earning across
                   {H}eterogeneous {C}lients},
            author={Tan, Yue and Long, Guodong and Liu, Lu and Zhou, Tianyi and Lu,
                    Qinghua and Jiang, Jing and Zhang, Chengqi},
            booktitle={AAAI},
            year={2022},
        }
        ```
    """

    client: AbstractClient
    classes: _Classes

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        representation: Callable,
        num_classes: int,
        num_features: int,
        label: str | Callable = "label",
        lam: ArrayLike = 1.0,
    ):
        self.classes = _Classes(
            representation,
            as_column("label", label),
            check_count("num_classes", num_classes),
            check_count("num_features", num_features),
        )
        criterion = _NearPrototypes(self.classes, as_number("lam", lam, least=0))
        local = LocalSGD(loss, client_optim, batching, criterion=criterion)
        self.client = _SaysClasses(local, self.classes)

    @property
    def _numbered(self) -> tuple[Numbered, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        classes = self.classes
        return (Numbered("label", classes.label, classes.num_classes, "num_classes"),)

    def begin(self, params, *, num_clients, key):
        sums = self.client.payload(params)
        nothing = _Prototypes(sums.total, sums.count)
        return Beginning(params, nothing, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        what = "keeps each client's whole model to itself"
        raise ValueError(NOT_KEPT.format(type(self).__name__, what))

    def step(self, state, clients, *, key):
        # Prototypes are what travels down, in place of a model.
        sent = Broadcast(state.server, state.rest)
        out = clients(self.client, UniformMean(), sent, state.clients, key=key)
        server = state.server.updated(out.aggregate.payload)
        state = dataclasses.replace(state, server=server, clients=out.clients)
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return None

    def models(self, state):
        """The one that every client began with: theirs are like it."""
        return [state.model]

    def own_model(self, state, kept):
        return eqx.combine(kept, state.rest)
