"""The limit: the recipe's arithmetic on tensors that lie ready, in a loop of a dozen lines."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srtrain.cli import build
from srtrain.cli.benchmark.driven import KEPT, Turns, ask_for_gpus_as_a_run, synchronize
from srtrain.cli.heap import keep_freed_memory
from srtrain.config.preflight import prepare
from srtrain.networks.discriminators.spectral import advance
from srtrain.training.compiled import compile_step
from srtrain.training.loop import seed_networks
from srtrain.training.stepping import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig
    from torch import Tensor

    from srtrain.networks.discriminator import Discriminator
    from srtrain.networks.generator import Generator
    from srtrain.training.loop import TrainerOptions

    Ready = tuple[tuple[Tensor, ...], Tensor]


class Bare:
    """What ``srtrain WORDS`` computes, without srtrain: network, loss, clipping, optimizer, EMA.

    channels_last, fused optimizer, foreach EMA; bf16, compiled and clipped where the run is, losses
    in fp32. No loader, no degradation, no guards, no logging, no Lightning. The first batches of
    the run lie on the device as floats, LR included, and are used over and over.
    """

    def __init__(self, words: Sequence[str]) -> None:
        config = prepare(words).config
        options: TrainerOptions = instantiate(config.trainer)
        self.device = torch.device("cuda" if options.uses_gpu else "cpu")
        ask_for_gpus_as_a_run(uses_gpu=options.uses_gpu)
        self.bf16 = options.lightning_precision == "bf16-mixed"
        torch.backends.cudnn.benchmark = options.uses_gpu
        seed_networks(config.seed)
        generator = build.make_generator(config)
        judge = build.make_discriminator(config, options)
        data = build.make_data(config, options)
        module: Any = build.make_module(config, options, generator, judge, data).to(self.device)
        self.net, self.loss = self.trained(generator), module.loss
        self.learner = Learner(self.net, "optimizer", config, options, config.model.clip_norm)
        self.judge: Judge | None = None
        if judge is not None:
            self.judge = Judge(judge, module.objective, config, options)
        data.prepare_data()
        batches = islice(iter(data.train_dataloader()), KEPT)
        self.batches = [self.ready(module, batch) for batch in batches]
        ema = config.callbacks.get("ema")
        self.decay: float | None = ema.decay if ema else None
        self.live = [v for v in self.net.state_dict().values() if v.is_floating_point()]
        self.average = [value.clone() for value in self.live]
        self.steps = 0
        self.cuda_graphs = options.cuda_graphs
        self.flops = self._count()
        if options.compile:
            compile_step(module, cuda_graphs=options.cuda_graphs)

    def step(self) -> None:
        """One step of the generator, one of the discriminator where there is one, and the EMA."""
        given, hr = self.batches[self.steps % len(self.batches)]
        sr = self._gradients(given, hr)
        self.learner.step()
        if self.judge is not None:
            self.judge.gradients(sr, hr)
            self.judge.step()
        if self.decay is not None:
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.average, self.live, 1.0 - decay)
        self.steps += 1

    def trained(self, generator: Generator) -> nn.Module:
        """What learns."""
        return generator.net

    def ready(self, module: Any, batch: Any) -> Ready:  # noqa: ANN401 - a loader's
        """What the network is given, and what it should make of that."""
        hr, lr = module.examples.pair({**batch, "hr": batch["hr"].to(self.device)})
        return (lr,), hr

    def _gradients(self, given: tuple[Tensor, ...], hr: Tensor) -> Tensor:
        """The generator's; returns what it made."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            sr: Tensor = self.net(*given)
        sr = sr.float()
        with frozen(self.judge.net) if self.judge is not None else nullcontext():
            parts = [
                term(sr, hr) if (weight := self.loss.weights[name]) == 1 else weight * term(sr, hr)
                for name, term in self.loss.terms.items()
            ]
            (parts[0] if len(parts) == 1 else torch.stack(parts).sum()).backward()
        return sr.detach()

    def _count(self) -> float:
        """FLOPs of a step's matrix products and convolutions, forwards and backwards."""
        with FlopCounterMode(display=False) as counter:
            given, hr = self.batches[0]
            sr = self._gradients(given, hr)
            if self.judge is not None:
                self.judge.gradients(sr, hr)
                self.judge.optimizer.zero_grad(set_to_none=True)
        self.learner.optimizer.zero_grad(set_to_none=True)
        return float(counter.get_total_flops())


class Learner:
    """A network and what moves it."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: str,
        config: DictConfig,
        options: TrainerOptions,
        clip_norm: float | None,
    ) -> None:
        self.net = net
        self.clip_norm = clip_norm
        make, schedule = config[optimizer], config.scheduler
        self.optimizer = instantiate(make, _convert_="all")(net.parameters())
        scheduled = instantiate(schedule, _convert_="all")
        self.scheduler = scheduled(self.optimizer, max_steps=options.max_steps)

    def step(self) -> None:
        """Clip, step, schedule."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()


class Judge(Learner):
    """The discriminator and its objective, without penalties."""

    def __init__(
        self,
        judge: Discriminator,
        objective: Any,  # noqa: ANN401 - losses.adversarial.Objective
        config: DictConfig,
        options: TrainerOptions,
    ) -> None:
        clip = config.model.discriminator_clip_norm
        super().__init__(judge, "discriminator_optimizer", config, options, clip)
        self.objective = objective

    def gradients(self, sr: Tensor, hr: Tensor) -> None:
        """Of telling ``sr`` from ``hr``."""
        self.objective.discriminator(fake=self.net(sr), real=self.net(hr)).backward()

    def step(self) -> None:
        """The step, and one of the power iteration behind the network's norms."""
        super().step()
        advance(self.net)


def take_turns(make: Callable[[], Bare]) -> None:
    """Steps, in turns, until it is killed."""
    keep_freed_memory()
    bare = make()
    turns = Turns(synchronize)
    turns.begin(flops=bare.flops, bf16=bare.bf16)
    while True:
        bare.step()
        turns.stepped()


if __name__ == "__main__":
    take_turns(lambda: Bare(sys.argv[1:]))
