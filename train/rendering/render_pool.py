"""Rendering over several processes, and files that are there whole or not at all."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar, cast

import cv2
import numpy as np

from dann.infer.cores import usable_cores
from dann.infer.errors import DannError, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")


def process_count(workers: int | None) -> int:
    """How many processes ``workers`` means: ``None`` is one per usable core. Raises :class:`UsageError` below 1."""
    if workers is not None and workers < 1:
        raise UsageError(f"the number of processes is {workers}; expected 1 or more")
    return workers or usable_cores()


def run_tasks(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results of ``work`` on each of ``tasks``, as they are finished, by so many processes.

    With more than one process ``work`` and the tasks are pickled, and scripts need ``if __name__ == "__main__"``. Where
    it ends early, by Ctrl-C for one, the processes end at once, in the middle of a task; where this process is killed,
    they end after their task.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Spawned, not forked: a fork copies OpenCV's and torch's thread pools in whatever state they are in. And pipes, not
    # an executor: it has locks, and Ctrl-C while this thread takes one leaves it locked, and the command hanging.
    context = get_context("spawn")
    waiting, processes = iter(tasks), {}
    try:
        with _without_ctrl_c():  # which is for this process to handle, and not for those it starts
            for _ in range(workers):
                pipe, other_end = context.Pipe()
                process = context.Process(target=_serve, args=(work, other_end), daemon=True)
                process.start()
                processes[pipe] = process
                other_end.close()  # so that it closes when the process ends
        with _processes_that_live():
            for pipe in processes:
                pipe.send(next(waiting))
        unfinished = len(tasks)
        while unfinished:
            for pipe in cast("list[Connection[Any, Any]]", wait(processes)):
                with _processes_that_live():
                    result, error = pipe.recv()
                    for task in islice(waiting, 1):
                        pipe.send(task)
                if error is not None:
                    raise error
                unfinished -= 1
                yield result
    finally:
        for pipe, process in processes.items():
            pipe.close()
            process.terminate()
            process.join()


@contextmanager
def _processes_that_live() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise DannError(
            "a process that rendered ended unexpectedly, as when memory runs out. Try fewer processes (--workers, or "
            'workers=), and in a script render under `if __name__ == "__main__":`'
        ) from error


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ctrl-C comes after this, and never to processes that are started in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # here, as starting it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(work: Callable[[Task], Result], pipe: "Connection[Any, Any]") -> None:
    cv2.setNumThreads(1)
    with suppress(EOFError, ConnectionError):  # the parent was killed
        while True:
            task = pipe.recv()
            try:
                answer = work(task), None
            except Exception as error:
                error.add_note(f"in a process that rendered:\n{traceback.format_exc()}")
                answer = None, error
            pipe.send(answer)


def save_image(path: Path, image_HW3: np.ndarray, encoding: Sequence[int] = ()) -> None:
    """Write uint8 RGB under the type of the file's name, whole or not at all."""
    write_whole(path, cv2.imencode(path.suffix, image_HW3[:, :, ::-1], list(encoding))[1].tobytes())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears when it is complete; a process that is killed leaves a ``.*.partial`` beside it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
