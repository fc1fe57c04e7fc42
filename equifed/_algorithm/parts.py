"""Which of the library's clients and servers go together.

A server reads from the messages what its own kind of client writes into them. A pair
that does not go together fails in the first round at best; and at worst it runs, and
computes what no paper describes. Parts of one's own are judged by what they do (see
`_contract.py`), never here.
"""

from .._client import (
    AbstractClient,
    AbstractCorrection,
    ControlVariate,
    DynamicRegularizer,
    FullGradient,
    LocalSGD,
    NoCorrection,
    Normalized,
    Proximal,
)
from .._posterior import EPClient, PosteriorClient
from .._server import (
    AbstractServer,
    BurnInServer,
    DynServer,
    EPServer,
    NovaServer,
    OptaxServer,
    ScaffoldServer,
)


# By a client's kind, or by that of its correction: its name, and its servers.
_SERVERS: dict[type[AbstractClient | AbstractCorrection], tuple[str, tuple]] = {
    FullGradient: ("`FullGradient`", (OptaxServer,)),
    NoCorrection: ("`LocalSGD` with `NoCorrection`", (OptaxServer,)),
    Proximal: ("`LocalSGD` with `Proximal`", (OptaxServer,)),
    ControlVariate: ("`LocalSGD` with `ControlVariate`", (ScaffoldServer,)),
    DynamicRegularizer: (
        "`LocalSGD` with `DynamicRegularizer`",
        (DynServer, OptaxServer),
    ),
    Normalized: ("`Normalized`", (NovaServer,)),
    PosteriorClient: ("`PosteriorClient`", (OptaxServer, BurnInServer)),
    EPClient: ("`EPClient`", (EPServer,)),
}
_KNOWN = {server for _, servers in _SERVERS.values() for server in servers}


def check_parts(client: AbstractClient, server: AbstractServer) -> None:
    """Refuses a client and a server of the library that do not go together."""
    kind = type(client.correction) if type(client) is LocalSGD else type(client)
    if kind not in _SERVERS or type(server) not in _KNOWN:
        return
    name, servers = _SERVERS[kind]
    if type(server) not in servers:
        goes = " or ".join(f"`{s.__name__}`" for s in servers)
        raise TypeError(
            f"`{type(server).__name__}` does not understand the messages of {name}, "
            f"which goes with {goes}."
        )
