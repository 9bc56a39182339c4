"""Notebook kernels that start warm: one process imports torch, transformers and what else most notebooks need, and each
kernel is a fork of it. Without this every notebook would spend its first ten to twenty seconds on imports.

    rerun ─── starts ──> server: imports, then waits on a socket
    nbclient ─ starts ─> launcher, one a kernel, small ── asks ──> server ── forks ──> kernel

The launcher lives as long as its kernel and dies with it, so that nbclient sees an ordinary kernel process. A fork is
safe as the server computes nothing: neither torch nor zmq has begun a thread there.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WARM = (  # what the server imports; what is missing is left to the notebook that needs it
    "ipykernel.kernelapp",  # matplotlib's inline backend is not here: imported without a shell, it never shows a figure
    "pandas",
    "seaborn",
    "torch",
    "earlib.generators.janus",
    "earlib.generators.var.generator",
    "earlib.evaluate.evaluation",
    "earlib.erasure.train",
    "open_clip",
)
ROOT = Path(__file__).resolve().parents[2]
INLINE = "module://matplotlib_inline.backend_inline"
QUIET = "--IPKernelApp.log_level=40"  # errors, no notice about TCP


class Kernels:
    """The kernels of one `rerun`, all of this interpreter, whatever kernels the user has installed.

    `with Kernels() as kernels:` papermill.execute_notebook(..., kernel_manager_class=kernels.manager(...)).

    Args:
        warm: start them from a process that has imported what most notebooks need; False for a single one.
    """

    def __init__(self, warm: bool = True):
        self.warm = warm and hasattr(os, "fork")

    def __enter__(self) -> Kernels:
        self._folder = tempfile.TemporaryDirectory(prefix="earlib-kernels-")
        self._address = str(Path(self._folder.name) / "socket")
        self._server: subprocess.Popen | None = None
        self._starting = threading.Lock()
        return self

    def __exit__(self, *error) -> None:
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()  # the server ends, and its kernels with it
            self._server.wait()
        self._folder.cleanup()

    def _warm(self) -> str:
        """The server's address; it is started when the first kernel is asked for."""
        with self._starting:
            if self._server is None or self._server.poll() is not None:
                Path(self._address).unlink(missing_ok=True)
                environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"MPLBACKEND": INLINE}
                command = [sys.executable, __file__, "serve", self._address]
                self._server = subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
                )
        return self._address

    def manager(self, folder: Path, root: Path, threads: int | None = None) -> type:
        """The kernel manager of one notebook.

        Args:
            folder: its run folder, which `earlib.runs.notebook_folder` gives it.
            root: where it runs.
            threads: how many torch may use; None: as many as it takes by itself.
        """
        from jupyter_client import AsyncKernelManager
        from jupyter_client.kernelspec import KernelSpec

        more = {"EARLIB_RUN": str(folder), "MPLBACKEND": INLINE}
        more |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        if self.warm:
            asked = json.dumps({"env": more, "cwd": str(root)})
            argv = [sys.executable, "-S", "-E", __file__, "launch", self._warm(), asked, "-f", "{connection_file}"]
        else:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = KernelSpec(argv=[*argv, QUIET], display_name="Python 3", language="python", env=more)

        class Manager(AsyncKernelManager):
            kernel_spec = spec

        return Manager


# ---------------------------------------------------------------- the launcher: `launch ADDRESS ASKED ARGUMENT ...`


def launch(address: str, asked: str, *arguments: str) -> int:
    """Ask the server for a kernel and wait until it ends; returns its exit status."""
    connection = socket.socket(socket.AF_UNIX)
    for attempt in range(600):  # the server may not have begun to listen
        try:
            connection.connect(address)
            break
        except OSError:
            if attempt == 599:
                raise
            time.sleep(0.1)
    connection.sendall(json.dumps(json.loads(asked) | {"argv": arguments}).encode() + b"\n")
    answers = connection.makefile()
    kernel = int(answers.readline() or 0)
    if not kernel:
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(kernel, number))
    return int(answers.readline() or 1)


# ---------------------------------------------------------------- the server: `serve ADDRESS`


def serve(address: str) -> None:
    """Fork a kernel for whoever asks, until standard input is closed; a kernel whose launcher is gone is killed."""
    import importlib

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(16)
    sys.path[0] = str(ROOT)  # in place of this file's folder
    for name in WARM:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    kernels: dict[int, socket.socket] = {}  # process -> its launcher's connection
    while True:
        for key, _ in waiting.select(0.05 if kernels else None):
            if key.fileobj is sys.stdin:
                for kernel in kernels:
                    os.kill(kernel, signal.SIGKILL)
                return
            if key.fileobj is listening:
                connection, _ = listening.accept()
                asked = json.loads(connection.makefile().readline())
                kernel = os.fork()
                if kernel == 0:
                    for other in (listening, connection, *kernels.values()):
                        other.close()
                    _become_kernel(**asked)
                kernels[kernel] = connection
                try:
                    connection.sendall(f"{kernel}\n".encode())
                except OSError:  # the launcher has given up; it is found gone below
                    pass
                waiting.register(connection, selectors.EVENT_READ)
            else:  # a launcher says nothing more: it was killed
                [kernel] = [process for process, connection in kernels.items() if connection is key.fileobj]
                os.kill(kernel, signal.SIGKILL)
        for kernel in list(kernels):
            done, status = os.waitpid(kernel, os.WNOHANG)
            if done:
                connection = kernels.pop(kernel)
                waiting.unregister(connection)
                try:
                    connection.sendall(f"{abs(os.waitstatus_to_exitcode(status))}\n".encode())
                except OSError:
                    pass
                connection.close()


def _become_kernel(env: dict[str, str], cwd: str, argv: list[str]) -> None:
    """In the fork: run an IPython kernel and never return."""
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 2)  # what a notebook prints goes through its sockets
        os.environ.update(env)
        os.chdir(cwd)
        os.environ["JPY_PARENT_PID"] = str(os.getppid())  # the kernel ends when the server does
        sys.path.remove(str(ROOT))  # it imports from where it runs, as any other kernel does
        if "OMP_NUM_THREADS" in env and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(env["OMP_NUM_THREADS"]))
        from ipykernel.kernelapp import launch_new_instance

        launch_new_instance(argv=argv)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    work, *arguments = sys.argv[1:]
    serve(*arguments) if work == "serve" else sys.exit(launch(*arguments))
