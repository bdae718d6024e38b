"""What an interrupted training goes on from: its state after an epoch, in one file. Of the last one
finished, or, where states are large and epochs short, of one in the seconds before.

It lies in `.resume/` of the study: DVC removes a stage's outs before it runs the stage, and the
stages that compare runs depend on the whole of `runs/`, which a file left there would change. The
file says whose it is, so that nothing else can go on from it, and goes when its run is done.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.engine.compute import peak_memory_bytes
from pipeline.engine.weights import write_tensors
from pipeline.study.errors import UserError, warn
from pipeline.study.files import writing
from pipeline.training.provenance import differences
from pipeline.training.state import Training

LARGE = 64 << 20  # bytes of a state: it takes a second and more to write
INTERVAL = 10.0  # seconds at least between two states that are large


class ResumeFile:
    """The state of one training on disk, and what its parts, if it was interrupted, add up to.

    Opening reads it. One that is another training's is passed over, until it is replaced; a corrupt
    one is set aside. Both are said.
    """

    def __init__(self, path: Path, identity: dict[str, str], device: torch.device) -> None:
        self.path = path
        self.identity = identity
        self.device = device
        self.start = time.perf_counter()
        self.before: dict[str, Any] = {
            "started": time.time(),
            "wall_seconds": 0.0,
            "peak_memory_bytes": 0,
            "resumed_epochs": [],
        }
        self.next = 0.0  # when a large state is kept again
        self.found = self._find()
        if self.found is not None:
            self.before = self.found[1]["parts"]

    def parts(self) -> dict[str, Any]:
        """For run.json: the start of the first part (seconds since 1970), the seconds of all, the
        highest memory of any in bytes, and the epochs that were finished when a part took over."""
        return self.before | {
            "wall_seconds": self.before["wall_seconds"] + time.perf_counter() - self.start,
            "peak_memory_bytes": max(
                self.before["peak_memory_bytes"], peak_memory_bytes(self.device)
            ),
        }

    def _find(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What the file holds of this training; None where there is nothing to go on from."""
        try:
            with self.path.open("rb"):
                pass
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be read: {error.strerror}; allow reading it, or remove it to "
                "begin this training anew"
            ) from None
        try:
            tensors, saved = _read(self.path)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            aside = self.path.with_suffix(".corrupt")
            with writing(aside):
                self.path.replace(aside)
            warn(
                f"{self.path} is corrupt ({_reason(error)}): set aside as {aside.name}, training "
                "begins anew"
            )
            return None
        other = differences(saved["identity"], self.identity)
        if other:
            warn(f"{self.path} is of another training ({other}): training begins anew")
            return None
        return tensors, saved

    def load(self, training: Training) -> None:
        """Bring `training`, just started, to where the file's was, if there is one."""
        if self.found is None:
            return
        tensors, saved = self.found
        self.found = None  # its memory is wanted
        training.model.load_state_dict(_under("model", tensors))
        training.best_weights = _under("best", tensors)
        _load_optimizer(training.optimizer, _under("optimizer", tensors))
        training.schedule.load_state_dict(saved["schedule"])
        for group, rate in zip(
            training.optimizer.param_groups, training.schedule.get_last_lr(), strict=True
        ):
            group["lr"] = rate
        training.history = saved["history"]
        self.before["resumed_epochs"].append(len(training.history))
        self.save(training)  # so that being resumed is counted, however this part ends
        self.next = 0.0

    def keep(self, training: Training) -> None:
        """To be called after each epoch: save, but a large state only now and then. Writing it may
        take longer than a short epoch, and an interruption then costs seconds."""
        if time.monotonic() >= self.next:
            self.save(training)

    def save(self, training: Training) -> None:
        """Keep `training` as it is, in place of what was kept; whole or not at all.

        Raises UserError where the disk refuses.
        """
        slots = {
            f"{number}.{name}": value
            for number, values in training.optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)  # SGD without momentum keeps a None
        }
        blocks = {
            "model": training.model.state_dict(),
            "best": training.best_weights,
            "optimizer": slots,
        }
        tensors = {
            f"{block}/{name}": tensor.cpu().contiguous()
            for block, content in blocks.items()
            for name, tensor in content.items()
        }
        state = json.dumps(
            {
                "identity": self.identity,
                "schedule": training.schedule.state_dict(),
                "history": training.history,
                "parts": self.parts(),
            }
        )
        metadata = {"state": state, "sha256": _digest(tensors, state)}
        write_tensors(self.path, tensors, metadata)
        if sum(tensor.nbytes for tensor in tensors.values()) > LARGE:
            self.next = time.monotonic() + INTERVAL

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The file's tensors, on the CPU and of their own memory, and what is beside them.

    Raises OSError, SafetensorError, KeyError or ValueError for one that is not as it was saved.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if metadata["sha256"] != _digest(tensors, metadata["state"]):
        raise ValueError("its sha256 is not that of its content")
    saved: dict[str, Any] = json.loads(metadata["state"])
    return tensors, saved


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    """sha256 over all that the file holds: safetensors has no checksum of its own."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]


def _under(block: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{block}/"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, slots: dict[str, Tensor]) -> None:
    """Give `optimizer` its moments back; `slots`: `<number of the weight>.<name>` -> tensor."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in slots.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # A fused kernel walks a weight and its moments by one layout, channels_last where that is.
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == weight.shape:
                values[name] = torch.empty_like(weight).copy_(value)
