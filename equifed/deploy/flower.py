"""Flower's deployment runtime as the engine.

Flower carries the messages; clients and server compute what they compute in a
simulation. A `ClientApp` answers each message in a process of its own, so what it
compiles is kept on disk, and what the client keeps in the node's context or in a
folder.
"""

import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._check import check_kind, check_number, checked
from .._extras import imported
from ._arrays import Wire
from ._client import Client, client_number, EVALUATE, QUERY, TRAIN
from ._memory import AbstractMemory, FolderMemory
from ._server import Server
from ._transport import AbstractTransport, Reply, Request


_KINDS = {QUERY: "query.equifed", TRAIN: "train", EVALUATE: "evaluate"}
_SHARED, _OWN, _CONFIG = "equifed.shared", "equifed.own", "equifed.config"
_ARRAYS, _METRICS = "equifed.arrays", "equifed.metrics"
_KEPT = "equifed.kept."
_NAMES = {
    "app": ("Array", "ArrayRecord", "ConfigRecord", "Message", "MetricRecord")
    + ("RecordDict",),
    "clientapp": ("ClientApp",),
    "serverapp": ("ServerApp",),
}


@checked()
def client_app(client: Client | Callable[[Mapping[str, Any]], Client]) -> Any:
    """Makes a Flower `ClientApp` of a client. Needs `pip install "equifed[flower]"`.

    A node is started with its settings, `--node-config "partition-id=0"`. They go to
    the client's `data`, and some are read here:

    - `partition-id`: the client's number, from 0. `num-partitions`, if it is there,
        must be the server's number of clients.
    - `state`: a folder for what the client keeps from round to round (SCAFFOLD's
        control variate, a personal model). Without it this is kept by the running
        supernode, and lost when that ends.
    - `cache`: a folder for compiled programs, `~/.cache/equifed` if not given: each
        message is answered by a new process, which would compile anew. Where JAX has
        been told of a folder (`JAX_COMPILATION_CACHE_DIR`), it is that one.

    **Arguments:**

    - `client`: one, or a function that makes it from the run's config (what stands
        under `[tool.flwr.app.config]`, and `flwr run --run-config`).
    """
    flwr = _flwr()
    app = flwr["ClientApp"]()

    def answer(kind: str, message: Any, context: Any) -> Any:
        node = dict(context.node_config)
        _keep_programs(node)
        one = _made("client", client, Client, context)
        records = message.content
        config = dict(records[_CONFIG])
        arrays = _arrays(records[_SHARED]) | _arrays(records[_OWN])
        memory = _memory(node, config, context, flwr)
        found = one.answer(kind, arrays, config, node, memory)
        content = flwr["RecordDict"](
            {
                _ARRAYS: _record(found.arrays, flwr),
                _METRICS: flwr["MetricRecord"](found.metrics),
                _CONFIG: flwr["ConfigRecord"](found.config),
            }
        )
        return flwr["Message"](content, reply_to=message)

    @app.query("equifed")
    def query(message: Any, context: Any) -> Any:
        return answer(QUERY, message, context)

    @app.train()
    def train(message: Any, context: Any) -> Any:
        return answer(TRAIN, message, context)

    @app.evaluate()
    def evaluate(message: Any, context: Any) -> Any:
        return answer(EVALUATE, message, context)

    return app


@checked()
def server_app(
    server: Server | Callable[[Mapping[str, Any]], Server], *, timeout: float = 600.0
) -> Any:
    """Makes a Flower `ServerApp` of a server. Needs `pip install "equifed[flower]"`.

    **Arguments:**

    - `server`: one, or a function that makes it from the run's config.
    - `timeout`: how many seconds clients have to answer a message. Who does not has
        dropped out of the round.
    """
    check_number("timeout", timeout, least=0, strict=True)
    flwr = _flwr()
    app = flwr["ServerApp"]()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        one = _made("server", server, Server, context)
        one.run(_Grid(grid, timeout, flwr))

    return app


class _Grid(AbstractTransport):
    """Messages by Flower's grid."""

    def __init__(self, grid: Any, timeout: float, flwr: dict[str, Any]):
        self._grid, self._timeout, self._flwr = grid, timeout, flwr

    def nodes(self) -> list[int]:
        return list(self._grid.get_node_ids())

    def sleep(self) -> None:
        time.sleep(1)

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        if not requests:
            return []
        # What is the same for all is made once.
        shared = {id(x.shared): _record(x.shared, self._flwr) for x in requests}
        messages = [self._message(x, shared[id(x.shared)]) for x in requests]
        replies = self._grid.send_and_receive(messages, timeout=self._timeout)
        sent = zip(messages, requests, strict=True)
        node_of = {message.metadata.message_id: x.node for message, x in sent}
        found = []
        for reply in replies:
            node = node_of.get(reply.metadata.reply_to_message_id)
            if node is not None:
                found.append(_reply(node, reply))
        return found

    def _message(self, request: Request, shared: Any) -> Any:
        content = self._flwr["RecordDict"](
            {
                _SHARED: shared,
                _OWN: _record(request.own, self._flwr),
                _CONFIG: self._flwr["ConfigRecord"](request.config),
            }
        )
        return self._flwr["Message"](
            content,
            dst_node_id=request.node,
            message_type=_KINDS[request.kind],
            ttl=self._timeout,  # Nobody waits for an answer that comes later.
            group_id=str(request.round + 1),
        )


def _reply(node: int, message: Any) -> Reply:
    if message.has_error():
        return Reply(node, {}, {}, {}, f"Its app failed: {message.error.reason}")
    try:
        records = message.content
        metrics, config = dict(records[_METRICS]), dict(records[_CONFIG])
        return Reply(node, _arrays(records[_ARRAYS]), metrics, config)
    except Exception as error:  # noqa: BLE001 (whatever was sent)
        return Reply(node, {}, {}, {}, f"Its reply cannot be read: {error!r:.200}")


class _ContextMemory(AbstractMemory):
    """In the node's context, as long as the supernode runs."""

    def __init__(self, state: Any, flwr: dict[str, Any]):
        self._state, self._flwr = state, flwr

    def load(self, name: str) -> Wire | None:
        key = _KEPT + name
        return _arrays(self._state[key]) if key in self._state else None

    def save(self, name: str, arrays: Wire) -> None:
        self._state[_KEPT + name] = _record(arrays, self._flwr)

    def drop(self, name: str) -> None:
        self._state.pop(_KEPT + name, None)

    def names(self) -> list[str]:
        return [x.removeprefix(_KEPT) for x in self._state if x.startswith(_KEPT)]


def _memory(
    node: Mapping[str, Any],
    config: Mapping[str, Any],
    context: Any,
    flwr: dict[str, Any],
) -> AbstractMemory:
    if "state" not in node or "passes" not in config:
        return _ContextMemory(context.state, flwr)
    number = client_number(node, config["clients"])
    # Of another method or model it is another folder.
    folder = f"client-{number}-{config['passes']}"
    return FolderMemory(pathlib.Path(str(node["state"])) / folder)


def _keep_programs(node: Mapping[str, Any]) -> None:
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    folder = node.get("cache", pathlib.Path(home) / "equifed")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _made(name: str, given: Any, kind: type, context: Any) -> Any:
    made = given if isinstance(given, kind) else given(dict(context.run_config))
    check_kind(name, made, kind)
    return made


def _record(arrays: Wire, flwr: dict[str, Any]) -> Any:
    return flwr["ArrayRecord"](
        {name: flwr["Array"](np.asarray(x)) for name, x in arrays.items()}
    )


def _arrays(record: Any) -> Wire:
    return {name: x.numpy() for name, x in record.items()}


def _flwr() -> dict[str, Any]:
    """What is used of Flower, imported when it is needed."""
    found: dict[str, Any] = {}
    of = {"by": "`equifed.deploy.flower`", "package": "flwr", "extra": "flower"}
    for module, names in _NAMES.items():
        part = imported(f"flwr.{module}", **of)
        found |= {name: getattr(part, name) for name in names}
    return found
