"""A client of a running ComfyUI, for the demo and the tests. Standard library only.

Graphs are in the host's API format:
{node id: {"class_type": ..., "inputs": {name: value or [node id, output]}}}.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request

Graph = dict[str, dict]


class NodeError(Exception):
    """A graph was refused or a node failed; the text is what a user would read in the front end."""


class Interrupted(Exception):
    """The run was stopped on request."""


class ComfyClient:
    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self._outputs: dict[str, dict] = {}  # the last of each node

    def get(self, path: str, timeout: float = 60) -> bytes:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=timeout) as reply:
            return reply.read()

    def get_json(self, path: str):
        return json.loads(self.get(path))

    def post(self, path: str, data: bytes, content_type: str = "application/json") -> bytes:
        headers = {"Content-Type": content_type}
        request = urllib.request.Request(f"{self.address}{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.read()

    def object_info(self, node: str | None = None) -> dict:
        return self.get_json(f"/object_info/{node}" if node else "/object_info")

    def queue(self, graph: Graph) -> str:
        """The id of the run. A graph of which any part does not validate raises NodeError with every complaint."""
        try:
            answer = json.loads(self.post("/prompt", json.dumps({"prompt": graph}).encode()))
        except urllib.error.HTTPError as refusal:
            answer = json.loads(refusal.read())
        if answer.get("error") or answer["node_errors"]:
            raise NodeError(_complaints(answer))
        return answer["prompt_id"]

    def wait(self, run: str, timeout: float = 600) -> dict[str, dict]:
        """The outputs of a run by node id, once it has ended."""
        entry = self.ended(run, timeout)
        self._outputs |= entry["outputs"]  # also of a run that failed at a later node
        _raise_on_failure(entry["status"])
        # ComfyUI 0.18 leaves out the outputs that it kept from the last run.
        kept = {node: self._outputs[node] for node in _cached(entry) if node in self._outputs}
        return {**kept, **entry["outputs"]}

    def ended(self, run: str, timeout: float = 600) -> dict:
        """What the server's history says of a run, once it has ended, well or not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get_json(f"/history/{run}").get(run)
            if entry:
                return entry
            time.sleep(0.05)
        raise TimeoutError(f"run {run} did not end within {timeout:g} s")

    def run(self, graph: Graph, timeout: float = 600) -> dict[str, dict]:
        return self.wait(self.queue(graph), timeout)

    def images(self, outputs: dict[str, dict], node: str) -> list[bytes]:
        """The pictures that a SaveImage or PreviewImage node wrote, as PNG files."""
        return [self.get(f"/view?{urllib.parse.urlencode(image)}") for image in outputs[node]["images"]]

    def interrupt(self) -> None:
        self.post("/interrupt", b"{}")

    def forget(self) -> None:
        """Empty the server's cache, so that the next run executes every node again."""
        for _ in range(2):  # one that comes while the server clears up after a run does not wake it
            self.post("/free", b'{"free_memory": true}')
            time.sleep(0.5)  # done by another thread, which is awake by then

    def cached_nodes(self, run: str) -> list[str]:
        """The nodes of an ended run that were not executed, since their outputs were known."""
        return _cached(self.get_json(f"/history/{run}")[run])

    def running(self) -> list[str]:
        """The ids of the runs that are being executed now."""
        return [entry[1] for entry in self.get_json("/queue")["queue_running"]]


def _cached(entry: dict) -> list[str]:
    return next((data["nodes"] for event, data in entry["status"]["messages"] if event == "execution_cached"), [])


def _complaints(refusal: dict) -> str:
    lines = [_sentence(refusal["error"])] if refusal.get("error") else []
    for node, found in refusal.get("node_errors", {}).items():
        lines += [f"{found['class_type']} (node {node}): {_sentence(error)}" for error in found["errors"]]
    return "\n".join(lines)


def _sentence(error: dict) -> str:
    return f"{error['message']}: {error['details']}" if error.get("details") else error["message"]


def _raise_on_failure(status: dict) -> None:
    for event, data in status["messages"]:
        if event == "execution_interrupted":
            raise Interrupted(f"interrupted at {data['node_type']} (node {data['node_id']})")
        if event == "execution_error":
            place = f"{data['node_type']} (node {data['node_id']})"
            raise NodeError(f"{place}: {data['exception_message'].strip()}")
