"""segfast.compat against the originals, with every option drawn: arguments, values, gradients.

``theirs`` sees float64 logits, and where it rounds to float32 it is made to use float64, so that
1e-12 holds of float64 logits and 1e-6 of float32 ones, relative to the largest value and gradient
(or four times what the original itself loses in float32).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import random
import warnings
from collections.abc import Callable
from typing import Any

import compat_originals
import pytest
import torch
from compat_cases import RTOL
from torch import Tensor
from torch.nn import functional as nnf

pytestmark = pytest.mark.compat

Options = dict[str, Any]
#: Ours, theirs, float64 logits, what follows them.
Drawn = tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor, tuple[Any, ...]]

LIBRARIES = ("smp", "monai", "nnunet", "kornia", "mmseg", "keras")
#: Arguments that are ours alone.
OURS = {"strict", "activation"}
load = functools.cache(compat_originals.load)


class Draw(random.Random):
    """What the libraries' tests draw from."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        torch.manual_seed(seed)
        self.n, self.c = self.randint(1, 3), self.choice([2, 3, 5, 8])

    def some(self, share: float = 0.5) -> bool:
        return self.random() < share

    def options(self, **choices: list[Any]) -> Options:
        """Some of the options, each one of its choices."""
        return {name: self.choice(values) for name, values in choices.items() if self.some()}

    def space(self, *dimensions: int) -> list[int]:
        count = self.choice(dimensions)
        return [self.randint(1, {1: 60, 2: 13, 3: 6}[count]) for _ in range(count)]

    def logits(self, channels: int, space: list[int]) -> Tensor:
        scale = self.choice([0.5, 2.0, 5.0])
        return scale * torch.randn(self.n, channels, *space, dtype=torch.float64)

    def labels(self, classes: int, shape: list[int], ignored: int | None) -> Tensor:
        """Some without the last class, some with ignored pixels, images or batches."""
        labels = torch.randint(classes, shape)
        if self.some() and classes > 2:
            labels[labels == classes - 1] = 0
        if ignored is not None:
            labels[torch.rand(shape) < self.choice([0.1, 0.6])] = ignored
            if self.some(0.3):
                labels[-1] = ignored
            if self.some(0.1):
                labels[:] = ignored
        return labels

    def weights(self, classes: int) -> list[float]:
        return [0.5 + c for c in range(classes)]

    def both(self, library: str, name: str, *args: Any, **options: Any) -> list[Any]:
        """Ours and the original."""
        mine = importlib.import_module(f"segfast.compat.{library}")
        return [getattr(m, name)(*args, **options) for m in (mine, load(library)[0])]


def draw_smp(draw: Draw) -> Drawn:
    name = draw.choice(["DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss", "Soft"])
    if name == "Soft":
        return draw_smp_soft(draw)
    mode = draw.choice(["binary", "multiclass", "multilabel"])
    classes = 1 if mode == "binary" else draw.c
    ignored = draw.choice([None, 255, -1, 0])
    options = draw.options(from_logits=[False], eps=[1e-7, 1e-3])
    if mode != "binary":
        options |= draw.options(
            class_weights=[draw.weights(classes), [0.0] + [2.0] * (classes - 1)]
        )
    if name == "FocalLoss":
        ignored = None if mode == "multilabel" else ignored  # smp fails
        options |= draw.options(
            alpha=[0.25, 0.7, 0.0, 1.0],
            gamma=[0.0, 1.0, 2.5],
            reduction=["mean", "sum", "none"] if mode == "binary" else ["mean", "sum"],
            normalized=[True],
            reduced_threshold=[0.5],
        )
    else:
        options |= draw.options(smooth=[0.0, 0.3, 1.0])
        # smp's intersection is a difference, which of a small one has too few digits for a log.
        options |= draw.options(log_loss=[True]) if options.get("smooth") else {}
        if mode != "binary":
            options |= draw.options(classes=[[0], [1, 0], list(range(classes))])
    if name == "TverskyLoss":
        options |= draw.options(alpha=[0.3, 0.0], beta=[0.7, 0.2], gamma=[1.5, 0.75, 2.0])
    space = draw.space(1, 2, 3)
    logits = draw.logits(classes, space)
    if not options.get("from_logits", True):
        logits = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    shape = [draw.n, *space] if mode == "multiclass" else list(logits.shape)
    target = draw.labels(max(classes, 2) if mode == "multiclass" else 2, shape, ignored)
    if mode != "multiclass" and ignored is None and name != "FocalLoss" and draw.some(0.3):
        target = torch.rand(shape, dtype=torch.float64)
    return (*draw.both("smp", name, mode, ignore_index=ignored, **options), logits, (target,))


def draw_smp_soft(draw: Draw) -> Drawn:
    space = draw.space(2)
    logits, ignored = draw.logits(draw.c, space), draw.choice([None, -100, 255, 0])
    options = {"ignore_index": ignored, **draw.options(reduction=["mean", "sum", "none"])}
    if draw.some():
        options["smooth_factor"] = draw.choice([0.0, 0.1, 0.5])
        if ignored is None:
            options["reduction"] = "mean"  # smp keeps a dimension of the map
        target = draw.labels(draw.c, [draw.n, *space], ignored)
        return (*draw.both("smp", "SoftCrossEntropyLoss", **options), logits, (target,))
    per_class = torch.rand(draw.c, 1, 1, dtype=torch.float64)
    options |= draw.options(
        smooth_factor=[0.1, 0.5],
        pos_weight=[torch.tensor([2.0]).double(), per_class],
        weight=[per_class.flip(0), torch.rand(*space, dtype=torch.float64)],
    )
    target = draw.labels(2, list(logits.shape), ignored).double()
    mine, theirs = draw.both("smp", "SoftBCEWithLogitsLoss", **options)
    return lambda x, y: mine.to(x)(x, y), theirs, logits, (target,)


def draw_monai(draw: Draw) -> Drawn:
    overlap = ["DiceLoss", "MaskedDiceLoss", "TverskyLoss", "GeneralizedDiceLoss", "MCCLoss"]
    sums = ["DiceCELoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss"]
    name = draw.choice([*overlap, *sums, "FocalLoss"])
    classes = 1 if draw.some(0.2) else draw.c
    from_logits = name.endswith(("CELoss", "FocalLoss"))
    focal = name.endswith("FocalLoss")
    options = draw.options(include_background=[False])
    chosen = classes - ("include_background" in options and classes > 1)
    options["reduction"] = draw.choice(["mean", "sum", "none"][: 2 if name == "DiceCELoss" else 3])
    if name == "FocalLoss":
        options |= draw.options(use_softmax=[True], alpha=[0.25, 0.75, 0.0, 1.0])
    else:
        options |= draw.options(batch=[True], smooth_nr=[0.0, 1.0], smooth_dr=[1.0])
        activation = draw.choice(["softmax", "sigmoid", None])
        options |= {activation: True} if activation else {}
    if name in ("DiceLoss", "MaskedDiceLoss", "DiceCELoss", "DiceFocalLoss"):
        options |= draw.options(squared_pred=[True], jaccard=[True])
    if focal or name in ("DiceLoss", "MaskedDiceLoss"):
        options |= draw.options(weight=[2.0, draw.weights(chosen)] if chosen > 1 else [2.0])
    if focal:
        options |= draw.options(gamma=[0.0, 1.0, 3.0])
    if name == "DiceFocalLoss":
        options |= draw.options(alpha=[0.3, 0.0, 1.0], lambda_dice=[0.5], lambda_focal=[2.0])
    if name == "DiceCELoss":
        weight = torch.tensor(draw.weights(classes), dtype=torch.float64)
        options |= draw.options(weight=[weight], label_smoothing=[0.1], lambda_ce=[2.0])
    if name == "TverskyLoss":
        options |= draw.options(alpha=[0.3, 0.7], beta=[0.2, 1.0])
    if name.startswith("Generalized"):
        options |= draw.options(w_type=["simple", "uniform"])
    ignored = None
    if name in ("DiceLoss", "TverskyLoss", "FocalLoss") and draw.some(0.4):
        ignored = options["ignore_index"] = draw.choice([255, -1, 0, 1])
    space = draw.space(2, 3)
    logits = draw.logits(classes, space)
    if not from_logits and "sigmoid" not in options and (classes == 1 or "softmax" not in options):
        logits = logits.softmax(1) if classes > 1 else logits.sigmoid()
    target = draw.labels(max(classes, 2), [draw.n, 1, *space], ignored).double()
    onehot = draw.some()
    if onehot and classes > 1:
        target = (target == torch.arange(classes).view(1, -1, *[1] * len(space))).double()
        if ignored is None and not from_logits and draw.some(0.3):
            target = torch.rand(logits.shape, dtype=torch.float64)
            options |= draw.options(soft_label=[True]) if name != "MCCLoss" else {}
    target = target if draw.some() or not bool((target == target.long()).all()) else target.long()
    if "squared_pred" in options or "soft_label" in options:
        target = target.double()  # MONAI takes norms of the target
    rest: tuple[Any, ...] = (target,)
    if name == "MaskedDiceLoss":
        rest += ((torch.rand(draw.choice([1, draw.n]), 1, *space) < 0.7).long(),)
    mine, theirs = draw.both("monai", name, to_onehot_y=not onehot, **options)
    return mine, theirs, logits, rest


def draw_nnunet(draw: Draw) -> Drawn:
    theirs = load("nnunet")[0]
    from segfast.compat import nnunet

    space = draw.space(2, 3)
    logits = draw.logits(draw.c, space)
    dice = {"ddp": False, **draw.options(batch_dice=[True], do_bg=[False], smooth=[0.0, 1e-5])}
    name = draw.choice(["SoftDiceLoss", "MemoryEfficientSoftDiceLoss"])
    kind = draw.choice([name, "DC_and_CE_loss", "DC_and_BCE_loss", "DC_and_topk_loss"])
    factors = {"weight_ce": draw.choice([1, 0.5]), "weight_dice": draw.choice([1, 2, 0])}
    if kind == name:
        function = draw.choice([theirs.softmax_helper_dim1, torch.sigmoid, None])
        if function is None:
            logits = logits.softmax(1)
        target = draw.labels(draw.c, [draw.n, 1, *space], None)
        forms = [target, target[:, 0], nnf.one_hot(target[:, 0], draw.c).movedim(-1, 1)]
        mask = torch.rand(draw.n, 1, *space) < 0.7
        rest = (draw.choice(forms), mask) if draw.some() else (draw.choice(forms),)
        return (*draw.both("nnunet", name, function, **dice), logits, rest)
    classes = [{"dice_class": getattr(m, name)} for m in (nnunet, theirs)]
    if kind == "DC_and_BCE_loss":
        ignore = draw.some()
        bce = draw.options(pos_weight=[torch.rand(draw.c, *[1] * len(space)).double()])
        bce |= {} if ignore else draw.options(reduction=["sum"])
        target = torch.rand(draw.n, draw.c + ignore, *space) < 0.4
        target = target.to(draw.choice([torch.bool, torch.float32, torch.int64]))
        options = {"use_ignore_label": ignore, **factors}
        mine, other = (
            m.DC_and_BCE_loss(dict(bce), dice, **options, **own)
            for m, own in zip((nnunet, theirs), classes, strict=True)
        )
        return mine, other, logits, (target,)
    ignored = draw.choice([None, 255, draw.c - 1, -1])
    ce = draw.options(label_smoothing=[0.1])
    if kind == "DC_and_CE_loss":
        weight = torch.rand(draw.c, dtype=torch.float64)
        ce |= draw.options(weight=[weight], reduction=["sum"])
    else:
        ce["k"], classes = 100 if logits[:, 0].numel() < 10 else draw.choice([10, 50]), [{}, {}]
    target = draw.labels(draw.c, [draw.n, 1, *space], ignored)
    target = target.to(draw.choice([torch.int64, torch.float32, torch.int16]))
    mine, other = (
        getattr(m, kind)(dice, dict(ce), ignore_label=ignored, **factors, **own)
        for m, own in zip((nnunet, theirs), classes, strict=True)
    )
    return mine, other, logits, (target,)


def draw_kornia(draw: Draw) -> Drawn:
    focal = ["FocalLoss", "BinaryFocalLossWithLogits"]
    sorting = ["LovaszHingeLoss", "LovaszSoftmaxLoss"]
    name = draw.choice(["DiceLoss", "TverskyLoss", *focal, *sorting])
    ignored = draw.choice([None, -100, 255, 0])
    weight = [torch.rand(draw.c, dtype=torch.float64)]
    channels = 1 if name == "LovaszHingeLoss" else draw.c
    space = draw.space(2)
    logits, shape = draw.logits(channels, space), [draw.n, *space]
    options: Options = {} if name.startswith("Lovasz") else {"ignore_index": ignored}
    if name == "DiceLoss":
        options |= draw.options(average=["macro", "micro"], eps=[1e-8, 1e-3], weight=weight)
    elif name == "TverskyLoss":
        options |= {"alpha": 0.3, "beta": 0.9, **draw.options(eps=[1e-8, 1e-3])}
    elif name == "LovaszSoftmaxLoss":
        options |= draw.options(weight=weight)
    elif name != "LovaszHingeLoss":
        options |= {"alpha": draw.choice([None, 0.3, 0.8]), "reduction": "none"}
        options |= draw.options(gamma=[0.0, 1.0, 0.5], weight=weight, reduction=["mean", "sum"])
    classes = max(channels, 2)
    if name == "BinaryFocalLossWithLogits":
        options |= draw.options(pos_weight=[weight[0].flip(0)])
        shape, classes = list(logits.shape), 2
    target = draw.labels(classes, shape, options.get("ignore_index"))
    return (*draw.both("kornia", name, **options), logits, (target,))


def draw_mmseg(draw: Draw) -> Drawn:
    space = draw.space(2)
    logits = draw.logits(draw.c, space)
    ignored = draw.choice([255, 0, 1])
    options = {"ignore_index": ignored, **draw.options(loss_weight=[2.0])}
    rest: tuple[Any, ...] = ()
    if draw.some():
        alpha = draw.choice([0.3, 0.5])
        options |= draw.options(smooth=[1e-3], class_weight=[draw.weights(draw.c)])
        options |= {"alpha": alpha, "beta": 1 - alpha}
        losses = draw.both("mmseg", "TverskyLoss", **options)
    else:
        options |= draw.options(use_sigmoid=[False], naive_dice=[True], eps=[1.0])
        options["reduction"] = draw.choice(["mean", "sum", "none"])
        if draw.some(0.3):
            rest = (torch.rand(draw.n, dtype=torch.float64),)
        elif options["reduction"] != "sum" and draw.some(0.3):
            rest = (None, 3.0)
        losses = draw.both("mmseg", "DiceLoss", **options)
        losses[0].strict = True
        ignored = 255 if ignored == 255 else None
    target = draw.labels(draw.c, [draw.n, *space], ignored)
    return (*losses, logits, (target, *rest))


def draw_keras(draw: Draw) -> Drawn:
    from segfast.compat import keras

    theirs = load("keras")[0]
    activation = draw.choice(["sigmoid", "softmax"])
    space = draw.space(2)
    logits = draw.logits(draw.c, space).clamp(-12, 12)
    target = draw.labels(draw.c, [draw.n, *space], None)
    onehot = nnf.one_hot(target, draw.c).movedim(-1, 1).double()
    indexes = draw.choice([None, [0, 1], [draw.c - 1, 0]])
    weights = draw.weights(len(indexes or range(draw.c)))

    def build(name: str) -> list[Callable[..., Tensor]]:
        options: Options = {} if name.startswith("Binary") else {"class_indexes": indexes}
        own: Options = {}
        if name in ("JaccardLoss", "DiceLoss"):
            options |= draw.options(smooth=[1.0], per_image=[True])
            own["activation"] = activation
        if "Focal" in name:
            options |= draw.options(alpha=[0.7], gamma=[1.5, 3.0])
        elif not name.startswith("Binary"):
            given = draw.options(class_weights=[weights])
            options |= given
        if name == "DiceLoss":
            options |= draw.options(beta=[2.0, 0.5])
        mine = getattr(keras, name)(**options, **own)
        if options.get("class_weights"):
            options["class_weights"] = torch.tensor(weights, dtype=torch.float64)
        return [mine, getattr(theirs, name)(**options)]

    prefix = "Binary" if activation == "sigmoid" else "Categorical"
    region = build(draw.choice(["JaccardLoss", "DiceLoss"]))
    entropy = build(prefix + draw.choice(["CELoss", "FocalLoss"]))
    sums = [0.5 * e + r * 2 for e, r in zip(entropy, region, strict=True)]  # type: ignore[operator]
    mine, other = draw.choice([region, entropy, sums])

    def called_as_in_keras(x: Tensor, _: Tensor) -> Tensor:
        p = x.sigmoid() if activation == "sigmoid" else x.softmax(1) * 1  # changed in place
        value: Tensor = other(onehot.movedim(1, -1), p.movedim(1, -1))
        return value

    return mine, called_as_in_keras, logits, (draw.choice([target, onehot]),)


def value_and_gradient(
    loss: Callable[..., Any], logits: Tensor, rest: tuple[Any, ...], seed: int | None
) -> list[Tensor]:
    """The gradient is that of the values times random numbers, or without a seed of their sum."""
    x = logits.detach().requires_grad_()
    value = loss(x, *rest)
    if not isinstance(value, Tensor):  # nnU-Net, of nothing
        value = x.sum() * 0 + value
    if seed is None:
        slope = torch.ones_like(value)
    else:
        slope = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).double()
    return [value.detach(), torch.autograd.grad((value * slope).sum(), x)[0]]


def compare(library: str, seed: int, dtype: torch.dtype) -> None:
    mine, theirs, logits, rest = globals()[f"draw_{library}"](Draw(seed))
    logits = logits.to(dtype)
    actual = value_and_gradient(mine, logits, rest, seed)
    exact = compat_originals.exactly(theirs, load(library)[1])
    expected = value_and_gradient(exact, logits.double(), rest, seed)
    assert actual[0].dtype == dtype and actual[0].shape == expected[0].shape
    if not all(x.isfinite().all() for x in expected):
        assert all(x.isfinite().all() for x in actual)  # as documented
        return
    for ours, truth, its_own in zip(
        actual, expected, errors(theirs, expected, logits, rest, seed), strict=True
    ):
        scale = truth.abs().max().item() if truth.numel() else 1.0
        # Below 1e-10 the original holds what rounding leaves of sums that cancel.
        atol = RTOL[dtype] * (scale if scale > 1e-10 else 1.0)
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=max(atol, its_own))


def errors(
    theirs: Callable[..., Tensor],
    expected: list[Tensor],
    logits: Tensor,
    rest: tuple[Any, ...],
    seed: int,
) -> list[float]:
    """What an original that computes in the logits' type itself is wrong by, several times: where
    its terms cancel, no one keeps six digits. And half an epsilon: losses are differences from 1.

    It is seen in float32. In float64 the same formula is wrong by about as many epsilons: MONAI's
    (sum p^2 + sum t - sum (p - t)^2) / 2, where that is less than the smoothing, by 1e-10.
    """
    single, epsilon = torch.finfo(torch.float32).eps, torch.finfo(logits.dtype).eps
    several = (4 if logits.dtype == torch.float32 else 16) * epsilon / single
    try:
        actual = value_and_gradient(theirs, logits.float(), rest, seed)
    except RuntimeError:  # of float64 weights beside float32 logits
        return [4 * epsilon, 0.0]
    own = [
        several * float((x.double() - y).abs().nan_to_num(0, 0).max()) if y.numel() else 0.0
        for x, y in zip(actual, expected, strict=True)
    ]
    return [max(own[0], epsilon / 2), own[1]]


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(40, 1500), marks=pytest.mark.nightly)], ids=str
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_equals_the_original(library: str, seeds: range, dtype: torch.dtype) -> None:
    load(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of what it skips
        for seed in seeds:
            try:
                compare(library, seed, dtype)
            except Exception as error:
                raise AssertionError(f"draw_{library}(Draw({seed}))") from error


@pytest.mark.cuda
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_on_a_gpu(library: str) -> None:
    """And nothing waits for it, but where smp leaves out pixels one by one."""
    load(library)
    for seed in range(40):
        mine, _, logits, rest = globals()[f"draw_{library}"](Draw(seed))
        expected = value_and_gradient(mine, logits, rest, None)
        mine = mine.cuda() if isinstance(mine, torch.nn.Module) else mine
        x, *rest = (x.cuda() if isinstance(x, Tensor) else x for x in (logits, *rest))
        value_and_gradient(mine, x, rest, None)  # the first launch may load code
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("default" if getattr(mine, "plain", False) else "error")
        try:
            actual = value_and_gradient(mine, x, rest, None)
        except Exception as error:
            raise AssertionError(f"draw_{library}(Draw({seed}))") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for gpu, cpu in zip(actual, expected, strict=True):
            torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
def test_arguments_are_the_originals(library: str) -> None:
    """Names, order and defaults of constructors, of functions, and of the calls."""
    theirs, mine = load(library)[0], importlib.import_module(f"segfast.compat.{library}")

    def plain(value: Any) -> Any:
        """Enums as their values, classes as their names."""
        return getattr(value, "value", getattr(value, "__name__", value))

    def arguments(function: Callable[..., Any]) -> list[tuple[str, Any]]:
        found = inspect.signature(function).parameters.values()
        return [(p.name, plain(p.default)) for p in found if p.name not in OURS]

    seen = 0
    for name, ours in vars(mine).items():
        module = getattr(ours, "__module__", "")
        is_own = module.startswith(mine.__name__) and not name.startswith("_")
        if not is_own or not callable(ours) or not hasattr(theirs, name) or name == "Loss":
            continue
        if isinstance(ours, torch.nn.Module):  # an instance, such as dice_loss
            continue
        seen += 1
        assert arguments(ours) == arguments(getattr(theirs, name)), name
        if library != "keras" and inspect.isclass(ours):  # which is called the other way round
            names = [x for x, _ in arguments(ours.forward)]
            assert names == [x for x, _ in arguments(getattr(theirs, name).forward)], name
    assert seen >= 2
