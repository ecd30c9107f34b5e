"""What a flow cannot be: half of one, without the mean it starts from, or under another loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.errors import ConfigError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.config.facts import Facts

MODEL = "srtrain.training.flow.FlowSR"
GENERATOR = "srtrain.networks.flow.Flow"
BANDS = "srtrain.networks.flow_bands.FlowBands"
MEAN = "mse_checkpoint"
BICUBIC = "srtrain.degradation.resize.Bicubic"
ASKING = ("generator.source", "generator.condition")


def halves(facts: Facts) -> Iterator[SrtrainError]:
    """Model and generator are both a flow, or neither is."""
    model = facts.get("model._target_") == MODEL
    generator = facts.get("generator._target_") == GENERATOR
    if model and not generator:
        what = f"model=flow learns velocities, generator={_chosen(facts, 'generator')} makes images"
        yield ConfigError(
            what, where="generator", fix="leave it out, or generator=flow | flow_lite"
        )
    if generator and not model:
        what = f"generator={_chosen(facts, 'generator')} is a flow, which model=flow trains"
        yield ConfigError(what, where="generator", fix="choose experiment=pmrf | posterior")


def mean(facts: Facts) -> Iterator[SrtrainError]:
    """Who starts from the mean, or is told it, needs the network that predicts it; no one else."""
    flow = facts.get("generator._target_") == GENERATOR
    asking = [f"{key}=mean" for key in ASKING if flow and facts.get(key) == "mean"]
    given = facts.get(MEAN)
    if asking and not given:
        what = f"{' and '.join(asking)}: whose mean? There is no {MEAN}"
        fix = f"add {MEAN}=RUN, of srtrain experiment=mse at the same scale"
        yield ConfigError(what, where=MEAN, fix=fix)
    told = flow != (facts.get("model._target_") == MODEL) or _never_sees_lr(facts)  # by other rules
    if given and not asking and not told:
        fix = "leave it out; experiment=pmrf | posterior use one, init_from=FILE starts from one"
        yield ConfigError(f"{MEAN}={given} that nothing uses", where=MEAN, fix=fix)


def loss(facts: Facts) -> Iterator[SrtrainError]:
    """A velocity is a mean of directions: squared error and no other, and no image to look at."""
    if facts.get("model._target_") != MODEL:
        return
    others = [name for name in facts.weights() if name != "pixel"]
    if others or facts.get("loss.terms.pixel._target_") != "torch.nn.MSELoss":
        named = ", ".join(others) or "another pixel term"
        what = f"a flow learns velocities by squared error alone, not by {named}"
        yield ConfigError(what, where="loss", fix="choose loss=mse and no other weights")


def projection(facts: Facts) -> Iterator[SrtrainError]:
    """An image can be held to its LR only where that is known to be its bicubic LR."""
    flow = facts.get("generator._target_") == GENERATOR
    blind = facts.get("degradation._target_") != BICUBIC
    if flow and facts.get("generator.project") is True and blind:
        what = f"degradation={_chosen(facts, 'degradation')}, but projection holds to a bicubic LR"
        yield ConfigError(what, where="generator.project", fix="leave it false")


def blind(facts: Facts) -> Iterator[SrtrainError]:
    """What is neither told nor started from an image of LR has nothing to do with LR."""
    if _never_sees_lr(facts):
        what = (
            f"source={facts.get('generator.source')}, condition=none: the flow would never see LR"
        )
        fix = "choose generator.condition=lr | mean"
        yield ConfigError(what, where="generator.condition", fix=fix)


def around(facts: Facts) -> Iterator[SrtrainError]:
    """A velocity in bands knows noise from detail by what it is told, if that is the source."""
    if facts.get("generator.velocity._target_") != BANDS:
        return
    source, condition = facts.get("generator.source"), facts.get("generator.condition")
    if _never_sees_lr(facts):
        return
    if source not in ("mean" if condition == "none" else "condition", condition):
        what = f"source={source} does not lie around condition={condition}, as FlowBands takes it"
        fix = "choose another generator.source, or generator=flow"
        yield ConfigError(what, where="generator.source", fix=fix)


def _never_sees_lr(facts: Facts) -> bool:
    flow = facts.get("generator._target_") == GENERATOR
    told = facts.get("generator.condition") != "none" or facts.get("generator.source") == "mean"
    return flow and not told


def _chosen(facts: Facts, group: str) -> str:
    return facts.choices.get(group, "…")


RULES: tuple[Callable[[Facts], Iterator[SrtrainError]], ...] = (
    halves,
    mean,
    loss,
    projection,
    blind,
    around,
)
