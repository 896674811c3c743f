"""Nodes that are about to be taken away: hearing of it in time, and leaving them with nothing lost.

A cluster manager that knows tells Ray, which calls the node draining (autoscalers do, and `ray drain-node`).
Where only the machine itself is told, as spot instances are by their cloud's metadata service, a command of
the user's asks for it on every node; Ray is told what it finds, so that nothing new is placed there.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time

from codex_ray.config.common import Cluster

LOOK_SECONDS = 2.0  # between two looks
COMMAND_SECONDS = 10.0  # the command's deadline


class LeavingError(Exception):
    """The checkpoint is written and the workers end, for Ray Train to start them where nodes stay."""


class Notice:
    """Listens, from construction until :meth:`stop`, for word that this worker's node is taken away.

    Attributes:
        given: whether there was word.
    """

    def __init__(self, cluster: Cluster) -> None:
        import ray

        self.given = False
        self._command, self._grace = cluster.preemption_command, cluster.preemption_grace_seconds
        self._node = ray.get_runtime_context().get_node_id()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="preemption", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopped.set()

    def _listen(self) -> None:
        while not self.given and not self._stopped.wait(LOOK_SECONDS):
            try:
                if self._command and announced(self._command):
                    self._tell_ray()
                self.given = self._draining()
            except Exception as error:  # the head may be away for a moment; it is asked again
                logging.warning("no answer on whether this node is taken away: %s", error)

    def _draining(self) -> bool:
        from ray._private.state import state  # as Ray Train's own watcher asks

        return self._node in (state.get_draining_nodes() or {})

    def _tell_ray(self) -> None:
        import ray
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        client = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
        deadline = int((time.time() + self._grace) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client.drain_node(self._node, reason, "cluster.preemption_command", deadline)


def announced(command: str) -> bool:
    """Whether a shell command says, by status 0, that this machine is about to be taken away."""
    silent = subprocess.DEVNULL
    # A session of its own, so that what the shell has started, such as a pipeline's parts, ends with it.
    shell = subprocess.Popen(
        command, shell=True, stdin=silent, stdout=silent, stderr=silent, start_new_session=True
    )
    try:
        return shell.wait(COMMAND_SECONDS) == 0
    except subprocess.TimeoutExpired:
        logging.warning("cluster.preemption_command took more than %g s", COMMAND_SECONDS)
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        return False
