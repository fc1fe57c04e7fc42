"""The floor: a round's SGD steps in one bare compiled loop, on one model.

As many steps as the round's clients take, on the batches of the same rows, in one
`fori_loop`: no clients, no aggregation, no metrics. With two devices each has a model
and half of the steps. What it computes is not a federated round, so its parameters
are compared with nobody's.
"""

import functools

import _protocol as protocol
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from _models import loss_of, make_model
from jax.sharding import NamedSharding, PartitionSpec


class BarePeer(protocol.Peer):
    comparable = False
    packages = ("jax", "jaxlib", "equinox", "numpy")

    def __init__(self, work, data, args):
        self.work, self.data, self.args = work, data, args
        self.mesh = jax.make_mesh((args.devices,), ("devices",))
        self.split = NamedSharding(self.mesh, PartitionSpec("devices"))
        whole = NamedSharding(self.mesh, PartitionSpec())
        self.examples = jax.device_put(
            {"x": np.asarray(data.x), "y": np.asarray(data.y)}, whole
        )
        params, self.static = eqx.partition(make_model(work), eqx.is_inexact_array)
        self.first = jax.tree.map(
            lambda x: np.broadcast_to(x, (args.devices, *x.shape)), params
        )
        self.loop = self._make_loop()
        self.capacity = 0

    def _make_loop(self):
        loss, static = loss_of(self.work), self.static
        rate, devices = self.work.learning_rate, PartitionSpec("devices")

        def mean_loss(params, batch):
            model = eqx.combine(params, static)
            return jax.vmap(lambda e: loss(model, e, jr.key(0)))(batch).mean()

        # With the flag that equifed compiles convolutions with.
        fusion = {"xla_cpu_experimental_ynn_fusion_type": ""}
        options = fusion if self.work.model == "cnn" else None

        @functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
        @functools.partial(
            jax.shard_map,
            mesh=self.mesh,
            in_specs=(devices, PartitionSpec(), devices, devices),
            out_specs=devices,
        )
        def loop(params, examples, order, num_steps):
            def step(i, params):
                batch = jax.tree.map(lambda x: x[order[0, i]], examples)
                grads = jax.grad(mean_loss)(params, batch)
                return jax.tree.map(lambda p, g: p - rate * g, params, grads)

            params = jax.tree.map(lambda x: x[0], params)
            params = jax.lax.fori_loop(0, num_steps[0], step, params)
            return jax.tree.map(lambda x: x[None], params)

        return loop

    def reset(self):
        # A copy: the loop's first argument is donated.
        self.params_ = jax.tree.map(
            lambda x: jax.device_put(np.array(x), self.split), self.first
        )

    def round(self, number):
        clients = self.work.clients(number, self.args.clients)
        bounds = self.data.offsets[clients], self.data.offsets[clients + 1]
        rows = np.concatenate([np.arange(a, b) for a, b in zip(*bounds, strict=True)])
        rows = rows.astype(np.int32).reshape(-1, self.work.batch_size)
        shares = np.array_split(rows, self.args.devices)
        counts = np.array([len(share) for share in shares], np.int32)
        # Longer than needed, or every round would be compiled.
        self.capacity = max(self.capacity, 2 ** int(np.ceil(np.log2(counts.max()))))
        order = np.zeros((len(shares), self.capacity, rows.shape[1]), np.int32)
        for place, share in zip(order, shares, strict=True):
            place[: len(share)] = share
        order, counts = jax.device_put((order, counts), self.split)
        self.params_ = self.loop(self.params_, self.examples, order, counts)
        jax.block_until_ready(self.params_)


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    protocol.serve(args, BarePeer)


if __name__ == "__main__":
    main()
