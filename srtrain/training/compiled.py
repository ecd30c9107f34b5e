"""``torch.compile`` of the networks of a training step."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from srtrain.errors import ConfigError
from srtrain.losses.features import VGG19Features
from srtrain.networks.flow import Flow

if TYPE_CHECKING:
    from srtrain.training.supervised import SupervisedSR

# CUDA graphs: one launch instead of hundreds, where shapes are fixed.
GRAPHS = "reduce-overhead"


def compile_step(module: SupervisedSR, *, cuda_graphs: bool = False) -> None:
    """Compile generator, discriminator and perceptual networks, each by itself, for training.

    Of a flow the velocity: a step of training asks for no image.

    A discriminator has a program for each of its uses: frozen, learning, and looked at only. Its
    ``net`` stays as it is, for penalties that differentiate gradients, which compiled code cannot.
    """
    mode = GRAPHS if cuda_graphs else None
    net = module.generator.net
    compile_while_training(net.velocity if isinstance(net, Flow) else net, mode=mode)
    judge = getattr(module, "discriminator", None)
    if judge is not None:
        compile_while_training(judge, mode=mode)
    for features in module.loss.modules():
        if isinstance(features, VGG19Features):
            compile_while_training(features)
    module.cuda_graphs = cuda_graphs


def compile_while_training(network: nn.Module, *, mode: str | None = None) -> None:
    """``network(…)`` is compiled in training mode; in evaluation mode it is what it was.

    Patches have one shape, the images of a validation have many, and each would be compiled. No
    name of a parameter changes. The program takes ``network`` as an argument: a copy of it is one.

    Raises: ConfigError where it cannot be compiled.
    """
    whole = type(network).forward
    fast = torch.compile(whole, dynamic=False, mode=mode)

    def forward(self: nn.Module, *inputs: Any) -> Any:
        if not self.training:
            return whole(self, *inputs)
        try:
            return fast(self, *inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            what = f"{type(self).__name__} cannot be compiled: {_first_line(error)}"
            raise ConfigError(what, where="trainer.compile", fix="trainer.compile=false") from error

    network.forward = MethodType(forward, network)


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
