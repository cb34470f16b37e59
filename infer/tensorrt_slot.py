"""One batch on its way through a TensorRT plan: an execution context, a stream, and buffers on both sides."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from dann.infer import cuda
from dann.infer.bundle import Artefact, TensorSpec
from dann.infer.tensorrt_names import TensorRT, checked, new_context


class Slot:
    """One batch at a time. The second in a row of one size is captured as a CUDA graph, which runs those that follow.

    A captured graph is bound to one shape and to one context: another shape ends it. TensorRT for RTX captures by
    itself, as it exchanges kernels after the first runs. What fails closes the slot: nothing is known of its stream.
    """

    def __init__(self, trt: TensorRT, engine: Any, artefact: Artefact, *, largest: int):
        self._trt = trt
        [self._input] = artefact.inputs
        self._outputs = artefact.outputs
        self._count = 0
        self._graph = None
        with cuda.Resources() as resources:
            self._host = {
                tensor.name: resources.pinned((largest, *tensor.shape[1:]), tensor.dtype)
                for tensor in (self._input, *self._outputs)
            }
            self._device = {name: resources.memory(rows.nbytes) for name, rows in self._host.items()}
            self._of_graph = resources.enter_context(cuda.Resources())
            self._stream = resources.stream()
            self._context = checked(trt, "making an execution context", new_context(trt, engine))
            for name, address in self._device.items():
                checked(trt, f"giving memory to {name}", self._context.set_tensor_address(name, address))
            self._resources = resources.pop_all()

    def begin(self, batch: np.ndarray) -> None:
        """Put a batch on the stream, of a type and a size that the plan takes."""
        with self._closed_by_failure():
            self._host[self._input.name][: len(batch)] = batch
            if len(batch) != self._count:
                self._set_count(len(batch))
                self._enqueue()  # once before it is captured, as it allocates
            elif self._trt.name == "tensorrt":
                if self._graph is None:
                    self._graph = self._of_graph.captured(self._stream, self._enqueue)
                cuda.call(cuda.api().cudaGraphLaunch, self._graph, self._stream)
            else:
                self._enqueue()

    def end(self) -> dict[str, np.ndarray]:
        """Wait for the batch; its outputs."""
        with self._closed_by_failure():
            cuda.call(cuda.api().cudaStreamSynchronize, self._stream)
        return {tensor.name: self._host[tensor.name][: self._count].copy() for tensor in self._outputs}

    def close(self) -> None:
        """Wait for what is on the stream, and give back memory."""
        self._resources.close()

    def _set_count(self, count: int) -> None:
        self._of_graph.close()
        self._graph = None
        what = f"taking a batch of {count}"
        checked(self._trt, what, self._context.set_input_shape(self._input.name, (count, *self._input.shape[1:])))
        checked(self._trt, what, not self._context.infer_shapes())  # it lists what is not known yet
        self._count = count

    def _enqueue(self) -> None:
        """The input to the device, the network, the outputs back."""
        kinds = cuda.api().cudaMemcpyKind
        self._copy(self._input, kinds.cudaMemcpyHostToDevice)
        checked(self._trt, "running", self._context.execute_async_v3(stream_handle=int(self._stream)))
        for tensor in self._outputs:
            self._copy(tensor, kinds.cudaMemcpyDeviceToHost)

    def _copy(self, tensor: TensorSpec, kind: Any) -> None:
        rows = self._host[tensor.name][: self._count]
        ends = rows.ctypes.data, self._device[tensor.name]
        source, target = ends if tensor is self._input else ends[::-1]
        cuda.call(cuda.api().cudaMemcpyAsync, target, source, rows.nbytes, kind, self._stream)

    @contextmanager
    def _closed_by_failure(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.push(self._resources)
            yield
            stack.pop_all()
