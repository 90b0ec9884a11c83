"""Training with model, gradients and optimizer split over the processes by torch's own `fully_shard` (FSDP2).

The Trainer's FSDP becomes plain DDP on a CPU without a word; this way is the same on CPUs and GPUs.
Checkpoints hold whole tensors and look like those of any other run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from llava.model.backbones import backbone_of
from llava.train.trainer import MaskTextTrainer

OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"


def shard(model: Any, mesh: DeviceMesh, *, compute: torch.dtype | None = None) -> None:  # noqa: ANN401
    """Split every parameter of a model over the processes of a mesh, in place.

    Each layer of the language model is gathered when it runs, the rest (vision tower, projector, embeddings)
    for the whole pass. Every batch must show an image (`llava.train.batch.CollatorWithImage`).

    Args:
        model: of a known family, with or without adapters.
        mesh: one-dimensional, over all processes.
        compute: type that weights are gathered in, such as bfloat16; gradients are summed up in float32.
            None gathers them as they are.
    """
    policy = MixedPrecisionPolicy()
    if compute is not None:
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    for layer in base.get_submodule(backbone_of(base.config).language_model).layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


@contextlib.contextmanager
def whole_weights(model: nn.Module, *, keep: bool) -> Iterator[None]:
    """Whole tensors on the CPU in place of the shards while the block runs; entered by every process.

    Args:
        model: sharded. With adapters only its trained weights are gathered, the base is saved nowhere.
        keep: False where this process only takes part in the gathering.
    """
    trained_only = isinstance(model, PeftModel)
    places: list[tuple[nn.Module, str, Any]] = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if isinstance(parameter, DTensor) and (parameter.requires_grad or not trained_only)
    ]
    try:
        for module, name, parameter in places:
            whole = parameter.detach().full_tensor()
            if keep:
                module._parameters[name] = nn.Parameter(whole.cpu(), parameter.requires_grad)
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimizer with whole tensors on the CPU; called by every process."""
    state = optimizer.state_dict()
    entries = {
        number: {name: _whole(value) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def load_whole_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up what `whole_state` gave, split like the parameters; called by every process."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = {
        number: {name: _split_like(value, parameters[number]) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": entries})


def _whole(value: Any) -> Any:  # noqa: ANN401
    """A sharded tensor put together on the CPU, anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _split_like(value: Any, parameter: torch.Tensor) -> Any:  # noqa: ANN401
    """A tensor of a sharded parameter's shape split like it, anything else as it is."""
    if not isinstance(parameter, DTensor):
        return value
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


class ShardedTrainer(MaskTextTrainer):
    """`MaskTextTrainer` whose model is split over the processes before the optimizer is made.

    A checkpoint to go on from is read before, while the weights are whole.
    """

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Split the model, then make the optimizer of its shards."""
        if self.optimizer is None:
            mesh = init_device_mesh(self.args.device.type, (self.args.world_size,))
            shard(self.model, mesh, compute=torch.bfloat16 if self.args.bf16 else None)
            # Accelerate would wrap the shards in DDP as well.
            self.accelerator.prepare_model = partial(_leave_unwrapped, self.accelerator.prepare_model)
        return super().create_optimizer(model)

    def _clip_grad_norm(self, model: nn.Module) -> Any:  # noqa: ANN401
        """Norm over all processes of the gradients, which are scaled down where it is too large."""
        return _whole(super()._clip_grad_norm(model))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a folder that `llava.model.checkpoint` loads; called by every process."""
        model: Any = self.model
        with whole_weights(model, keep=self.args.should_save):
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write both as a run of one process would."""
        optimizer, scheduler = self._made()
        state = whole_state(optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir, OPTIMIZER_FILE))
            torch.save(scheduler.state_dict(), Path(output_dir, SCHEDULER_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Take up both from a checkpoint to go on from."""
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint, OPTIMIZER_FILE), map_location="cpu", weights_only=True)
        optimizer, scheduler = self._made()
        load_whole_state(optimizer, state)
        schedule = torch.load(Path(checkpoint, SCHEDULER_FILE), map_location="cpu", weights_only=True)
        scheduler.load_state_dict(schedule)

    def _made(self) -> tuple[Any, Any]:
        """Optimizer and schedule of the training that runs."""
        return self.optimizer, self.lr_scheduler


def _leave_unwrapped(
    prepare: Any,  # noqa: ANN401
    model: nn.Module,
    device_placement: bool | None = None,
    evaluation_mode: bool = False,
) -> nn.Module:
    """Accelerate's `prepare_model` for a model in its place: mixed precision and nothing else."""
    return prepare(model, device_placement=False, evaluation_mode=True)
