"""Recipes: the settings of a training run, and which of them a data set and a network call for, with the reasons.

Published settings stand with their source. Those marked "ours" are this library's own and no more than sensible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .data.augment import Augment
from .data.mixing import Mixing
from .losses import LOSSES
from .optim import OPTIMIZERS, Optimizer, scaled_rate
from .regularize import dropouts, residual_steps
from .spec import whole_numbers

__all__ = ["RECIPES", "Recipe", "choose"]

_LEAST = {
    "epochs": 1,
    "repeats": 1,
    "norm_parts": 1,
    "weight_decay": 0,
    "clip_norm": 0,
    "frozen_stages": 0,
    "precise_norms": 0,
    "patience": 0,
}
_COUNTS = ("epochs", "repeats", "norm_parts", "frozen_stages", "precise_norms", "patience")
_SHARES = ("warmup", "label_smoothing", "dropout", "stochastic_depth", "ema_decay")


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run. A 0 leaves a thing out.

    Attributes:
        epochs: passes over the training part. In `RECIPES` for 10,000 clips.
        optimizer: see `optim.OPTIMIZERS`.
        lr: highest rate. In `RECIPES` for 16 clips a step.
        weight_decay: of weights, never of norms and biases.
        warmup: share of the steps in which the rate rises.
        clip_norm: largest norm of the gradient.
        layer_decay: rate of a stage to that of the next, see `optim.parameter_groups`.
        head_factor: rate of the head, as a multiple of the others'.
        frozen_stages: stages that are held, and the stem with them.
        is_norm_frozen: whether batch norms that have statistics keep them.
        norm_parts: parts of a batch over each of which batch norms take their statistics; 1 is the whole.
        precise_norms: batches over which batch norms take their true statistics before each validation.
        loss: of `losses.LOSSES`.
        label_smoothing: probability spread over the other classes.
        class_weights: balanced gives each class the same weight in sum, none each clip.
        dropout: of the head; None is the network's own.
        stochastic_depth: probability that the last residual step is left out.
        augment: changes of a clip.
        mixing: of a batch with itself.
        repeats: clips of each video in an epoch, one after another (Hoffer et al. 2020, arXiv 1901.09335).
        ema_decay: of the running average of the weights.
        patience: epochs without a better one that end the run.

    Raises:
        ValueError: a value is out of its range.
    """

    epochs: int = 30
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip_norm: float = 1.0
    layer_decay: float = 1.0
    head_factor: float = 1.0
    frozen_stages: int = 0
    is_norm_frozen: bool = False
    norm_parts: int = 1
    precise_norms: int = 0
    loss: str = "cross_entropy"
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    dropout: float | None = None
    stochastic_depth: float = 0.0
    augment: Augment = field(default_factory=Augment)
    mixing: Mixing = field(default_factory=Mixing)
    repeats: int = 1
    ema_decay: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        whole_numbers(**{name: getattr(self, name) for name in _COUNTS})
        for name, least in _LEAST.items():
            if not least <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} {value} must be at least {least}")
        for name in _SHARES:
            if (value := getattr(self, name)) is not None and not 0 <= value < 1:
                raise ValueError(f"{name} {value} must be at least 0 and below 1")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr {self.lr} must be above 0")
        choices = {"optimizer": OPTIMIZERS, "loss": LOSSES, "class_weights": ("none", "balanced")}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} {value!r}; there is {', '.join(known)}")
        for name, kind in {"augment": Augment, "mixing": Mixing}.items():
            if not isinstance(value := getattr(self, name), kind):
                raise ValueError(f"{name} {value!r}; give a {kind.__name__}, see {kind.__module__}")
        if self.is_norm_frozen and self.precise_norms:
            raise ValueError(
                f"is_norm_frozen True, precise_norms {self.precise_norms}: norms that keep their statistics take no "
                "others; leave one of the two out"
            )


# Zoom: PySlowFast's jitter of 256..320 for its residual networks. Colours and erasing: its AUG.COLOR_JITTER and
# AUG.RE_PROB. No flip, since left and right may be classes.
_ZOOM = Augment(zoom=1.25)
_MORE = Augment(zoom=1.25, color=0.4, erase=0.25)

# AdamW, weight decay 0.05, label smoothing 0.1: VideoMAE (arXiv 2203.12602) and ConvNeXt (arXiv 2201.03545). Norm of
# the gradient 1: PySlowFast's MViT. The rate 1e-3: MedMNIST's (arXiv 2110.14795); for fine-tuning a tenth of it, new
# heads at all of it: ours, after TSM, whose heads learn at 5 times the rate of the rest. Layer decay 0.75: VideoMAE.
# Small data: dropout 0.5 as in C3D, SlowFast and X3D; stochastic depth 0.1 as in VideoMAE and ConvNeXt-T; Mixup 0.4 as
# in lip-reading (arXiv 2001.08702). Scans: loss and norm of the gradient are nnU-Net's (Isensee et al. 2021), which has
# SGD; the rate is ours. Epochs: ours.
RECIPES = {
    "scratch": Recipe(epochs=30, augment=_ZOOM),
    "scratch_small": Recipe(epochs=30, dropout=0.5, stochastic_depth=0.1, augment=_MORE, mixing=Mixing(mixup=0.4)),
    "finetune": Recipe(epochs=15, lr=1e-4, head_factor=10.0, layer_decay=0.75, augment=_ZOOM),
    "finetune_small": Recipe(
        epochs=15, lr=1e-4, head_factor=10.0, layer_decay=0.75, dropout=0.5, stochastic_depth=0.1, augment=_MORE
    ),
    "segment": Recipe(epochs=30, lr=3e-3, weight_decay=0.01, clip_norm=12.0, loss="dice_ce", label_smoothing=0.0),
}

# SGD in AdamW's place: 0.16 for 256 clips after Goyal et al. 2017 (0.1), decay He et al. 2016, gradient MMAction2.
_SGD: dict[str, Any] = {"weight_decay": 1e-4, "clip_norm": 40.0}
_SGD_RATE = 10  # times AdamW's

SMALL = 10_000  # clips; ours. UCF101 has 9,537, HMDB51 3,570: there networks of 18 layers overfit (arXiv 1711.09577)
VERY_SMALL = 1_000  # clips; ours
MOST_EPOCHS = 6.0  # times those of the recipe; ours
LEAST_WINDOWS = 100  # of an epoch on scans; ours, nnU-Net has 250 steps
SMALL_NETWORK = 1_000_000  # parameters; ours
UNBALANCED = 10  # times as many clips; ours, the least imbalance of the long-tailed benchmarks (arXiv 1901.05555)
SMALL_BATCH = 8  # clips, below which batch norm's error grows (Wu and He 2018, arXiv 1803.08494, figure 1)
EMA_SHARE = 0.05  # of the steps that the average looks back over; ours
LEAST_EMA = 20  # steps; ours


class _Case(NamedTuple):
    """What a recipe is chosen for."""

    model: Any
    num_samples: int
    class_counts: Sequence[int]
    is_fine_tuned: bool
    batch_size: int
    num_parts: int
    unit: str
    is_dense: bool

    def step(self, repeats: int) -> int:
        """Clips of a step, which has no more than an epoch."""
        return min(self.batch_size, self.num_samples * repeats)


Choice = tuple[dict[str, Any], str]  # settings, and why


def choose(
    model: nn.Module,
    num_samples: int,
    class_counts: Sequence[int] = (),
    *,
    is_fine_tuned: bool = False,
    batch_size: int = 16,
    num_parts: int = 1,
    name: str | None = None,
    is_dense: bool = False,
    unit: str = "clips",
    asked: Mapping[str, Any] | None = None,
) -> tuple[Recipe, list[str]]:
    """The recipe for a data set and a network, and in sentences what was chosen and why.

    Args:
        model: the network that will be trained.
        num_samples: of the training part.
        class_counts: samples of each class, where a sample has one.
        is_fine_tuned: whether its weights are not new.
        batch_size: clips of a step, over all processes and accumulated parts; an epoch of fewer is one step.
        num_parts: parts of a step that go through the network on their own: processes times accumulation.
        name: of `RECIPES`; None chooses by the number of samples and the weights.
        is_dense: whether each voxel has a class.
        unit: what the samples are, in the reasons: clips, or scans, which nothing of `Augment` is done to.
        asked: fields of a `Recipe` that are not to be chosen; a None in it is to be chosen.

    Returns:
        The recipe, with the epochs and the rate of this run, and the reasons.

    Raises:
        ValueError: a name or a field is not known, or a value is out of its range.
    """
    given = {key: value for key, value in (asked or {}).items() if value is not None}
    if unknown := sorted(given.keys() - vars(Recipe()).keys()):
        raise ValueError(f"{', '.join(unknown)}: no setting of a recipe; there is {', '.join(vars(Recipe()))}")
    if num_samples < 1 or not 1 <= num_parts <= batch_size:
        raise ValueError(f"{num_samples} samples, steps of {batch_size} clips in {num_parts} parts: one each at least")
    size = f"{'fewer than' if num_samples < SMALL else 'at least'} {SMALL:,}"
    why = f"{num_samples:,} {unit}, {size}, and {'weights that are trained' if is_fine_tuned else 'new weights'}"
    if name is None and is_dense:
        name, why = "segment", "a class for each voxel"
    elif name is None:
        name = ("finetune" if is_fine_tuned else "scratch") + ("_small" if num_samples < SMALL else "")
    elif name not in RECIPES:
        raise ValueError(f"recipe {name!r}; there is {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if given.get("optimizer") == "sgd":
        recipe = replace(recipe, lr=_SGD_RATE * recipe.lr, **_SGD)
    recipe = replace(recipe, **given)
    case = _Case(model, num_samples, class_counts, is_fine_tuned, batch_size, num_parts, unit, is_dense)
    reasons = [f"recipe {name}: {why}"]
    for rule in (_repeats, _epochs, _rate, _strength, _augment, _stages, _norms, _weights, _average):
        settings, reason = rule(recipe, case)
        if free := {key: value for key, value in settings.items() if key not in given}:
            recipe = replace(recipe, **free)
            reasons.append(f"{_named(free)}: {reason}")
    if is_dense:
        given.pop("mixing", None)  # not for voxels
    if given:
        reasons.append(f"{_named(given)}: as asked")
    return recipe, reasons


def _named(settings: Mapping[str, Any]) -> str:
    """Settings as the command line has them; of a group those that are not as they are by default."""
    named = []
    for key, value in settings.items():
        if isinstance(value, Augment | Mixing):
            plain: Any = type(value)()
            inner = {each: one for each, one in vars(value).items() if one != getattr(plain, each)}
            named += [f"{key}.{each} {one}" for each, one in inner.items()] or [f"{key} plain"]
        elif value is None:
            named.append(f"{key} the network's own")
        else:
            named.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(named)


def _epochs(recipe: Recipe, case: _Case) -> Choice:
    factor = min(MOST_EPOCHS, max(1.0, math.sqrt(SMALL / case.num_samples)))
    # clips of one video stand for epochs; windows of one scan are what makes an epoch of few
    epochs = math.ceil(recipe.epochs * factor / (1 if case.is_dense else recipe.repeats))
    seen = epochs * recipe.repeats * case.num_samples
    unit = "windows" if case.is_dense else case.unit
    return {"epochs": epochs}, f"{seen:,} {unit} seen; the fewer there are, the more often each"


def _repeats(recipe: Recipe, case: _Case) -> Choice:
    """Of scans, which differ less than clips do, more windows rather than more epochs: each of those is validated."""
    if not case.is_dense or case.num_samples >= LEAST_WINDOWS:
        return {}, ""
    repeats = math.ceil(LEAST_WINDOWS / case.num_samples)
    return {"repeats": repeats}, f"windows of each scan in an epoch, which has {LEAST_WINDOWS} at least"


def _rate(recipe: Recipe, case: _Case) -> Choice:
    step = case.step(recipe.repeats)
    rate, sentence = scaled_rate(recipe.lr, recipe.optimizer, step)
    return {"lr": rate}, sentence if step == case.batch_size else f"{sentence}, all that an epoch has"


def _strength(recipe: Recipe, case: _Case) -> Choice:
    """Of what keeps a network from learning the clips by heart."""
    count = _num_parameters(case)
    if count < SMALL_NETWORK:
        settings = {"dropout": None, "stochastic_depth": 0.0, "mixing": Mixing()}
        return settings, f"{count:,} parameters, fewer than {SMALL_NETWORK:,}, learn too little rather than too much"
    settings = {
        "dropout": recipe.dropout if dropouts(case.model) else None,
        "stochastic_depth": recipe.stochastic_depth if residual_steps(case.model) else 0.0,
        "mixing": recipe.mixing,
    }
    return settings, f"{count:,} parameters for {case.num_samples:,} {case.unit}"


def _augment(recipe: Recipe, case: _Case) -> Choice:
    if case.unit == "scans":
        return {}, ""
    augment = _ZOOM if _num_parameters(case) < SMALL_NETWORK else recipe.augment
    return {"augment": augment}, "no flip, since left and right may be classes"


def _stages(recipe: Recipe, case: _Case) -> Choice:
    if not case.is_fine_tuned or case.num_samples >= VERY_SMALL or not hasattr(case.model, "stages"):
        return {}, ""
    return {"frozen_stages": 1}, f"with the stem, {case.num_samples} {case.unit}, fewer than {VERY_SMALL:,}"


def _norms(recipe: Recipe, case: _Case) -> Choice:
    batch = max(1, case.step(recipe.repeats) // case.num_parts)
    has_norm = any(isinstance(module, _BatchNorm) for module in case.model.modules())
    if not case.is_fine_tuned or batch >= SMALL_BATCH or not has_norm or recipe.precise_norms:
        return {}, ""
    return {"is_norm_frozen": True}, f"{batch} clips at a time, fewer than {SMALL_BATCH}"


def _weights(recipe: Recipe, case: _Case) -> Choice:
    counts = [count for count in case.class_counts if count]
    if len(counts) < 2:
        return {}, ""
    ratio = max(counts) / min(counts)
    weights, bound = ("balanced", "at least") if ratio >= UNBALANCED else ("none", "fewer than")
    reason = f"the largest class has {ratio:.3g} times the {case.unit} of the smallest, {bound} {UNBALANCED}"
    return {"class_weights": weights}, reason


def _average(recipe: Recipe, case: _Case) -> Choice:
    steps = recipe.epochs * math.ceil(case.num_samples * recipe.repeats / case.batch_size)
    span = round(EMA_SHARE * steps)
    if span < LEAST_EMA:
        return {"ema_decay": 0.0}, f"{steps:,} steps are too few for an average of the weights"
    return {"ema_decay": 1 - 1 / span}, f"the weights are averaged over some {span:,} of {steps:,} steps"


def _num_parameters(case: _Case) -> int:
    return sum(parameter.numel() for parameter in case.model.parameters())
