"""SIGINT and SIGTERM as a flag that the training loop reads between two steps."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """A context in which the first Ctrl-C or SIGTERM asks to stop; a second Ctrl-C interrupts at once.

    ``received`` is the signal's number or ``None``. Outside the main thread it does nothing: Python allows signal
    handlers only there.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # exactly what signal.signal returned

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
