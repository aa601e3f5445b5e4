"""Recipes: what is chosen for which data, that it says so, and that every choice can be taken back."""

import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

import tubelet
from tubelet import optim, regularize
from tubelet.data.augment import Augment
from tubelet.models import MODELS
from tubelet.recipe import RECIPES, Recipe, choose

KINDS = {}
for preset in MODELS:
    KINDS.setdefault(preset.build, preset.name)


def network(name):
    with torch.device("meta"):
        return tubelet.create(name, num_classes=400)


@pytest.mark.parametrize("name", KINDS.values())
@pytest.mark.parametrize("is_fine_tuned", [False, True])
def test_every_choice_can_be_carried_out(name, is_fine_tuned):
    model = network(name)
    recipe, reasons = choose(model, 500, [400, 100], is_fine_tuned=is_fine_tuned, batch_size=4)
    regularize.freeze(model, recipe.frozen_stages)
    if recipe.is_norm_frozen:
        regularize.freeze_norms(model)
    if recipe.stochastic_depth:
        regularize.stochastic_depth(model, recipe.stochastic_depth)
    if recipe.dropout is not None:
        regularize.set_dropout(model, recipe.dropout)
    groups = optim.parameter_groups(
        model, recipe.lr, recipe.weight_decay, layer_decay=recipe.layer_decay, head_factor=recipe.head_factor
    )
    optim.OPTIMIZERS[recipe.optimizer](groups)
    assert reasons[
        0
    ] == f"recipe {'finetune' if is_fine_tuned else 'scratch'}_small: 500 clips, fewer than 10,000, and " + (
        "weights that are trained" if is_fine_tuned else "new weights"
    )


def test_small_data_gets_longer_and_stronger_training():
    model = network("r3d_18")
    small, reasons = choose(model, 2500, [1250, 1250])
    large, _ = choose(model, 10_000, [5000, 5000])
    assert (small.epochs, large.epochs) == (60, 30)
    assert small.dropout == 0.5 and large.dropout is None
    assert small.stochastic_depth and small.mixing.mixup and small.augment.erase
    assert not large.stochastic_depth and not large.mixing.mixup
    assert any("epochs 60: 150,000 clips" in reason for reason in reasons)
    assert any("33,371,472 parameters for 2,500 clips" in reason for reason in reasons)


def test_a_small_network_is_not_held_back():
    recipe, reasons = choose(network("tiny"), 600)
    assert (recipe.dropout, recipe.stochastic_depth, recipe.mixing.mixup, recipe.augment.erase) == (None, 0, 0, 0)
    assert any("137,152 parameters" in reason for reason in reasons)


def test_trained_weights_are_kept_by_low_rates_and_held_stages():
    model = network("r3d_18")
    recipe, reasons = choose(model, 300, is_fine_tuned=True, batch_size=16, num_parts=4)
    assert (recipe.frozen_stages, recipe.is_norm_frozen) == (1, True)
    assert recipe.lr * recipe.head_factor == pytest.approx(choose(model, 300)[0].lr)
    assert "frozen_stages 1: with the stem, 300 clips, fewer than 1,000" in reasons
    assert "is_norm_frozen True: 4 clips at a time, fewer than 8" in reasons
    recipe, _ = choose(model, 3000, is_fine_tuned=True, batch_size=16)
    assert (recipe.frozen_stages, recipe.is_norm_frozen) == (0, False)


@pytest.mark.parametrize(
    ("counts", "weights", "told"),
    [([780, 220], "none", "3.55 times"), ([1000, 0, 100], "balanced", "10 times"), ([], "none", ""), ([5], "none", "")],
)
def test_class_weights_where_classes_are_unbalanced(counts, weights, told):
    recipe, reasons = choose(network("tiny"), 1000, counts)
    assert recipe.class_weights == weights
    assert any(f"class_weights {weights}: the largest class has {told}" in r for r in reasons) == bool(told)


def test_the_average_looks_back_over_a_share_of_the_steps():
    recipe, _ = choose(network("tiny"), 10_000, batch_size=100)  # 30 epochs of 100 steps
    assert 1 / (1 - recipe.ema_decay) == pytest.approx(150)
    recipe, reasons = choose(network("tiny"), 40, asked={"epochs": 3})
    assert recipe.ema_decay == 0 and any("9 steps are too few" in reason for reason in reasons)


def test_what_is_asked_is_not_chosen():
    augment = Augment(max_shift=4)
    asked = {"lr": 0.3, "epochs": 7, "augment": augment, "dropout": 0.0, "stochastic_depth": None, "ema_decay": 0.0}
    recipe, reasons = choose(network("r3d_18"), 600, batch_size=64, asked=asked)
    assert (recipe.lr, recipe.epochs, recipe.augment, recipe.dropout, recipe.ema_decay) == (0.3, 7, augment, 0.0, 0.0)
    assert recipe.stochastic_depth == 0.1
    assert reasons[-1] == "lr 0.3, epochs 7, augment.max_shift 4, dropout 0, ema_decay 0: as asked"
    assert any(reason.startswith("stochastic_depth 0.1, mixing.mixup 0.4: ") for reason in reasons)
    assert not any(reason.startswith(("lr", "epochs", "augment", "ema_decay")) for reason in reasons[:-1])


def test_a_named_recipe_and_sgd():
    recipe, reasons = choose(network("tiny"), 600, name="scratch", batch_size=256, asked={"optimizer": "sgd"})
    assert recipe.lr == pytest.approx(0.16) and recipe.weight_decay == 1e-4 and recipe.clip_norm == 40
    assert reasons[0].startswith("recipe scratch:")
    assert choose(network("tiny"), 600, asked={"optimizer": "sgd", "weight_decay": 0.0})[0].weight_decay == 0.0


def test_the_rate_is_that_of_the_clips_that_a_step_holds():
    """Malladi et al. 2022: the root; 12 clips of 16 are three quarters, whatever was asked for."""
    for batch_size in (12, 16, 1000):
        recipe, reasons = choose(network("tiny"), 12, batch_size=batch_size)
        assert recipe.lr == pytest.approx(1e-3 * math.sqrt(12 / 16))
        (told,) = [reason for reason in reasons if reason.startswith("lr")]
        assert told.endswith("for steps of 12" + (", all that an epoch has" if batch_size > 12 else ""))
    several, _ = choose(network("tiny"), 12, batch_size=1000, asked={"repeats": 4})
    assert several.lr == pytest.approx(1e-3 * math.sqrt(48 / 16))
    scans, _ = choose(nn.Conv3d(1, 2, 3), 9, is_dense=True, batch_size=200, unit="scans")  # 12 windows of each
    assert scans.lr == pytest.approx(3e-3 * math.sqrt(108 / 16))
    sgd, _ = choose(network("tiny"), 12, batch_size=1000, asked={"optimizer": "sgd"})
    assert sgd.lr == pytest.approx(1e-2 * 12 / 16)
    more, reasons = choose(network("tiny"), 17, batch_size=16)
    assert more.lr == 1e-3 and any(reason.endswith("for steps of 16") for reason in reasons)
    held, reasons = choose(network("r3d_18"), 6, is_fine_tuned=True)
    assert held.is_norm_frozen and "is_norm_frozen True: 6 clips at a time, fewer than 8" in reasons


def test_norms_take_statistics_or_are_held():
    asked = {"is_norm_frozen": True, "precise_norms": 2}
    with pytest.raises(ValueError, match=r"^is_norm_frozen True, precise_norms 2: .*leave one of the two out$"):
        choose(network("r3d_18"), 600, asked=asked)
    chosen, _ = choose(network("r3d_18"), 600, is_fine_tuned=True, batch_size=4, asked={"precise_norms": 2})
    assert not chosen.is_norm_frozen


def test_clips_repeated_in_an_epoch_do_not_lengthen_the_run():
    once, twice = (choose(network("tiny"), 2500, asked={"repeats": repeats})[0] for repeats in (1, 2))
    assert (once.epochs, twice.epochs) == (60, 30)


def test_any_network_has_a_recipe():
    recipe, _ = choose(nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU()), 50)
    assert recipe.dropout is None


def test_few_scans_are_seen_several_times_an_epoch():
    few, reasons = choose(nn.Conv3d(1, 2, 3), 9, is_dense=True, batch_size=2, unit="scans")
    assert few.repeats == 12 and few.epochs == 180  # 108 windows an epoch
    assert any("repeats 12" in reason for reason in reasons)
    assert any("epochs 180: 19,440 windows seen" in reason for reason in reasons)
    same, _ = choose(nn.Conv3d(1, 2, 3), 9, is_dense=True, batch_size=2, unit="scans", asked={"repeats": 12})
    assert same == few
    many, _ = choose(nn.Conv3d(1, 2, 3), 156, is_dense=True, batch_size=2, unit="scans")
    assert many.repeats == 1 and many.epochs == 180


def test_there_are_at_most_five_and_they_are_plain():
    assert 1 <= len(RECIPES) <= 5
    for recipe in RECIPES.values():
        values = asdict(recipe)
        assert Recipe(**{**values, "augment": Augment(**values["augment"]), "mixing": recipe.mixing}) == recipe


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, "epochs 0 must be at least 1"),
        ({"epochs": 1.5}, "epochs 1.5 must be a whole number"),
        ({"patience": 2.0}, "patience 2.0 must be a whole number"),
        ({"mixing": {"mixup": 0.2}}, r"mixing \{'mixup': 0.2\}; give a Mixing, see tubelet.data.mixing"),
        ({"augment": "kinetics"}, "augment 'kinetics'; give a Augment, see tubelet.data.augment"),
        ({"clip_norm": -1.0}, "clip_norm -1.0 must be at least 0"),
        ({"warmup": 1.0}, "warmup 1.0 must be at least 0 and below 1"),
        ({"label_smoothing": math.nan}, "label_smoothing nan must"),
        ({"lr": 0.0}, "lr 0.0 must be above 0"),
        ({"optimizer": "adam"}, "optimizer 'adam'; there is adamw, sgd"),
        ({"loss": "hinge"}, "loss 'hinge'; there is cross_entropy, "),
        ({"class_weights": "even"}, "class_weights 'even'; there is none, balanced"),
        ({"drop_path": 0.1}, "drop_path: no setting of a recipe; there is epochs, "),
    ],
)
def test_bad_settings_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        choose(network("tiny"), 100, asked=bad)


def test_bad_facts_are_named():
    for call in ({"num_samples": 0}, {"num_samples": 5, "batch_size": 2, "num_parts": 3}):
        with pytest.raises(ValueError, match="one each at least"):
            choose(network("tiny"), **call)
    with pytest.raises(ValueError, match="recipe 'long'; there is scratch, "):
        choose(network("tiny"), 100, name="long")
