"""One training step, queued on the device: nothing in it waits for what the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.engine import losses
from pipeline.engine.batches import Batch
from pipeline.engine.compute import autocast, imagenet_statistics, to_input, to_target
from pipeline.study.blocks import Focal, Train
from pipeline.study.errors import warn
from pipeline.training.state import Training

Losses = dict[str, Tensor]  # the loss trained by and the three of section 9.5, (N,) each
WARM_UP = 3  # passes before a capture: libraries choose their kernels and take their memory


class Step:
    """step(batch) trains on one batch and returns its losses, which stay on the device.

    On a GPU a network that says it is `capturable` has its forward and backward pass recorded once,
    as a CUDA graph (pytorch.org/docs/stable/notes/cuda.html#cuda-graphs), and replayed: the same
    kernels in the same order, without the time that launching each of them takes, which is most of
    a step. A batch of another size, an epoch's last, is computed as ever.
    """

    def __init__(self, training: Training, train: Train, focal: Focal, dtype: torch.dtype) -> None:
        self.training = training
        self.train = train
        self.focal = focal
        self.dtype = dtype
        self.device = next(training.model.parameters()).device
        self.statistics = imagenet_statistics(self.device)
        self.captures = self.device.type == "cuda" and is_capturable(training.model)
        self.captured: Captured | None = None

    def __call__(self, batch: Batch) -> Losses:
        images, masks = batch
        if self.captures and len(images) == self.train.batch_size:
            values = self._replay(images, masks)
        else:
            values = self.gradients(images, masks)
        if self.train.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.training.model.parameters(), self.train.gradient_clip)
        self.training.optimizer.step()
        self.training.schedule.step()
        return values

    def gradients(self, images: Tensor, masks: Tensor) -> Losses:
        """Give every weight the gradient of the batch's mean loss. images (N, H, W, 3) uint8 RGB,
        masks (N, H, W) uint8 in {0, 1}."""
        self.training.optimizer.zero_grad(set_to_none=True)
        inputs = to_input(images, self.device, self.statistics)
        targets = to_target(masks, self.device)
        with autocast(self.device, self.dtype):
            logits = self.training.model(inputs)
        values = losses.every_loss(logits, targets, self.train.loss, self.focal)
        values["loss"].mean().backward()
        return {name: value.detach() for name, value in values.items()}

    def _replay(self, images: Tensor, masks: Tensor) -> Losses:
        if self.captured is None:
            self.captured, problem = self._record(images, masks)
            if self.captured is None:
                self.captures = False
                warn(f"{problem}: it is computed without, to the same result but slower")
                return self.gradients(images, masks)
        return self.captured(images, masks)

    def _record(self, images: Tensor, masks: Tensor) -> tuple[Captured | None, str]:
        """The recorded pass, or why there is none, in words. Here the error ends, and with it what
        its frames hold of the device's memory."""
        try:
            return capture(self.gradients, self.training.model, images, masks), ""
        except RuntimeError as error:  # whatever cannot be recorded, and memory
            first: BaseException = error
            while first.__context__ is not None:  # what ends the recording is told after its cause
                first = first.__context__
            told = (str(first).strip() or type(first).__name__).splitlines()[0]
            return None, f"the training step cannot be recorded as a CUDA graph ({told})"


def is_capturable(model: nn.Module) -> bool:
    """Whether the network does the same for every batch: no choice in Python, by chance or by what
    it computed, which a graph would repeat as it fell at the first."""
    return bool(getattr(model, "capturable", False))


class Captured:
    """A recorded pass over a batch of one size: captured(images, masks) repeats it."""

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        batch: Batch,
        values: Losses,
        gradients: list[tuple[nn.Parameter, Tensor | None]],
    ) -> None:
        self.graph, self.batch, self.values, self.gradients = graph, batch, values, gradients

    def __call__(self, images: Tensor, masks: Tensor) -> Losses:
        for own, given in zip(self.batch, (images, masks), strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        for weight, gradient in self.gradients:  # a batch of another size put others there
            weight.grad = gradient
        return {name: value.clone() for name, value in self.values.items()}


@contextmanager
def waiting_refused() -> Iterator[None]:
    """RuntimeError for an operation that waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def capture(
    gradients: Callable[[Tensor, Tensor], Losses], model: nn.Module, images: Tensor, masks: Tensor
) -> Captured:
    """Record `gradients` of a batch of that size. Nothing of the model or of the random numbers is
    another afterwards, however it ends. Raises RuntimeError for what cannot be recorded: where it
    waits for the device before anything is recorded, which torch does not undo in every version."""
    device = next(model.parameters()).device
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]  # BatchNorms see the batch
    random = torch.cuda.get_rng_state(device)
    batch = (images.to(device, copy=True), masks.to(device, copy=True))
    own = torch.cuda.current_stream(device)
    aside = torch.cuda.Stream(device)
    try:
        aside.wait_stream(own)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                gradients(*batch)
            with waiting_refused():
                gradients(*batch)
        own.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        mode = "thread_local"  # the loader's thread, which pins memory, goes on meanwhile
        # A capture that fails leaves its stream the current one; the outer context goes back.
        with torch.cuda.stream(own), torch.cuda.graph(graph, capture_error_mode=mode):
            values = gradients(*batch)
    finally:
        own.wait_stream(aside)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.cuda.set_rng_state(random, device)
    found = [(weight, weight.grad) for weight in model.parameters()]
    return Captured(graph, batch, values, found)
