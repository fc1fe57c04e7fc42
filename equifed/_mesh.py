"""The devices of a round: a mesh with an axis called `clients`."""

from jax.sharding import AxisType, Mesh


AXIS = "clients"


def num_devices(mesh: Mesh | None) -> int:
    """How many devices share the clients; without a mesh it is the default one."""
    return 1 if mesh is None else mesh.shape[AXIS]


def clients_each(num_clients: int, num_devices: int) -> int:
    """How many clients are at home on a device: they lie over them in order, in equal
    shares, of which the last may be short."""
    return -(-num_clients // num_devices)


def clients_mesh(mesh: Mesh) -> Mesh:
    """Checks a user's mesh, and makes its axes automatic.

    `jax.make_mesh` makes explicit axes unless told otherwise. Their shardings are part
    of every array's type, and would have to be spelled out by all that a round
    computes from its clients' messages.

    **Raises:**

    `ValueError` if it has no axis `clients`.
    """
    if AXIS not in mesh.axis_names:
        raise ValueError(
            f"The mesh must have an axis {AXIS!r}, but its axes are "
            f"{mesh.axis_names}. Make one with "
            f"`jax.make_mesh((jax.device_count(),), ({AXIS!r},))`."
        )
    automatic = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)
