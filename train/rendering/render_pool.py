"""Rendering over several processes, and files that are there whole or not at all."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from dann.infer.errors import DannError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results of ``work`` on each of ``tasks``, as they are finished, by so many processes.

    With more than one process ``work`` and the tasks are pickled, and scripts need ``if __name__ == "__main__"``. Where
    it ends early, by Ctrl-C for one, the processes end at once, in the middle of a task; so they do when this one dies.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Spawned, not forked: a fork copies OpenCV's and torch's thread pools in whatever state they are in.
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        for done in as_completed([pool.submit(work, task) for task in tasks]):
            yield done.result()
    except BrokenProcessPool as error:
        raise DannError(
            "a process that rendered ended unexpectedly, as when memory runs out. Try fewer processes (--workers, or "
            'workers=), and in a script render under `if __name__ == "__main__":`'
        ) from error
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


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
