"""NVFlare as the engine.

NVFlare carries the messages; clients and server compute what they compute in a
simulation. A client's script serves all rounds in one process, so it compiles once, and
keeps what the client keeps where it was told to, or with the process.
"""

import json
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._check import check_kind, check_number, checked
from .._extras import imported
from ._arrays import Wire
from ._client import Answer, Client, client_number
from ._memory import AbstractMemory, FolderMemory
from ._server import Server
from ._transport import AbstractTransport, Reply, Request


# NVFlare gives an end of its own to a task of another name, or to one that is empty.
_TASK, _SAID, _HERE = "train", "equifed", "equifed.here"


@checked()
def answer(client: Client, node: Mapping[str, Any] | Callable[[str], Any]) -> None:
    """Answers NVFlare's tasks until the job ends: all that a client's training script
    has to do. Needs `pip install "equifed[nvflare]"`.

    The script is started once for a job, as `ScriptRunner(script,
    framework=FrameworkType.RAW)` does. What fails is told to the server, and the next
    task is waited for.

    **Arguments:**

    - `client`: what answers.
    - `node`: the settings of this client, or a function that gives them, told the name
        of the site. They go to the client's `data`, and some are read here:
        `partition-id`, the client's number, from 0; and `state`, a folder for what the
        client keeps from round to round. Without one it is lost when the script ends.
    """
    check_kind("client", client, Client)
    flare = _flare()
    flare.init()
    memories: dict[str, AbstractMemory] = {}
    while flare.is_running():
        task = flare.receive()
        if task is None:
            return
        said = json.loads(task.meta[_SAID])
        try:
            own = node(flare.get_site_name()) if callable(node) else node
            arrays = {n: x for n, x in task.params.items() if n != _HERE}
            memory = _memory(own, said["config"], memories)
            found = client.answer(said["kind"], arrays, said["config"], own, memory)
            reply = _model(flare, found)
        except Exception as error:  # noqa: BLE001 (told to the server)
            words = {"error": f"{type(error).__name__}: {error}"[:2000]}
            reply = _packed(flare, {}, words)
        flare.send(reply)


@checked()
def serve(controller: Any, server: Server, *, timeout: float = 600.0) -> None:
    """Runs all rounds of a server: what the `run` of a `ModelController` has to do.
    Needs `pip install "equifed[nvflare]"`.

    **Arguments:**

    - `controller`: an `nvflare.app_common.workflows.model_controller.ModelController`,
        made with `ignore_result_error=True`, so that a client that fails is one that
        has dropped out.
    - `server`: what it runs.
    - `timeout`: how many seconds clients have to answer a message. Who does not has
        dropped out of the round.

    !!! example

        ```python
        class Training(ModelController):
            def run(self):
                nvflare.serve(self, eqf.deploy.Server(...))
        ```
    """
    check_kind("server", server, Server)
    check_number("timeout", timeout, least=0, strict=True)
    server.run(_Tasks(controller, timeout, _flare()))


class _Tasks(AbstractTransport):
    """Messages by a controller's tasks, one for each client, as each has arrays of its
    own."""

    def __init__(self, controller: Any, timeout: float, flare: Any):
        self._controller, self._timeout, self._flare = controller, timeout, flare
        self._sites: list[str] = []

    def nodes(self) -> list[int]:
        names = [str(x.name) for x in self._controller.engine.get_clients()]
        self._sites += sorted(set(names) - set(self._sites))
        return [self._sites.index(name) for name in sorted(names)]

    def sleep(self) -> None:
        time.sleep(0.2)

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        found: dict[int, Reply] = {}
        news = threading.Condition()

        def told(node: int) -> Callable[[Any], None]:
            def keep(model: Any) -> None:
                with news:
                    found[node] = _reply(node, model)
                    news.notify()

            return keep

        for x in requests:
            said = {"kind": x.kind, "config": x.config}
            self._controller.send_model(
                task_name=_TASK,
                data=_packed(self._flare, x.shared | x.own, said, x.round),
                targets=[self._sites[x.node]],
                timeout=int(np.ceil(self._timeout)),
                callback=told(x.node),
            )
        end = time.monotonic() + self._timeout
        with news:
            while len(found) < len(requests) and time.monotonic() < end:
                if self._controller.abort_signal.triggered:
                    raise RuntimeError("The job was aborted.")
                news.wait(0.5)
            return list(found.values())


def _packed(flare: Any, arrays: Wire, said: Mapping[str, Any], round: int = 0) -> Any:
    return flare.FLModel(
        params_type=flare.ParamsType.DIFF,
        params={_HERE: np.zeros(1, np.int8)}
        | {n: np.asarray(x) for n, x in arrays.items()},
        current_round=round,
        meta={_SAID: json.dumps(said)},
    )


def _model(flare: Any, found: Answer) -> Any:
    said = {"metrics": found.metrics, "config": found.config}
    return _packed(flare, found.arrays, said)


def _reply(node: int, model: Any) -> Reply:
    try:
        said = json.loads(model.meta[_SAID])
        if "error" in said:
            return Reply(node, {}, {}, {}, f"Its app failed: {said['error']}")
        arrays = {n: x for n, x in model.params.items() if n != _HERE}
        return Reply(node, arrays, said["metrics"], said["config"])
    except Exception as error:  # noqa: BLE001 (whatever was sent)
        return Reply(node, {}, {}, {}, f"Its reply cannot be read: {error!r:.200}")


class _ProcessMemory(AbstractMemory):
    """As long as the process runs."""

    def __init__(self):
        self._kept: dict[str, Wire] = {}

    def load(self, name: str) -> Wire | None:
        return self._kept.get(name)

    def save(self, name: str, arrays: Wire) -> None:
        self._kept[name] = arrays

    def drop(self, name: str) -> None:
        self._kept.pop(name, None)

    def names(self) -> list[str]:
        return list(self._kept)


def _memory(
    node: Mapping[str, Any],
    config: Mapping[str, Any],
    memories: dict[str, AbstractMemory],
) -> AbstractMemory:
    """What the client keeps: of another method or model it is another one."""
    of = str(config.get("passes", ""))
    if of not in memories:
        memories[of] = _ProcessMemory()
        if of and "state" in node:
            name = f"client-{client_number(node, config['clients'])}-{of}"
            memories[of] = FolderMemory(pathlib.Path(str(node["state"])) / name)
    return memories[of]


def _flare() -> Any:
    by = "`equifed.deploy.nvflare`"
    return imported("nvflare.client", by=by, package="nvflare", extra="nvflare")
