"""overlap_stats: the twin's sums and gradients, torch's losses, and what it owes as an op."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import FLOATS, LAYOUTS, lay_out
from op_tester import Arguments, OpTester
from torch import Tensor

from segfast import functional as F
from segfast import losses
from segfast._classes import dense_format_of
from segfast.bench.memory import peak_bytes
from segfast.reference import overlap_stats as twin

# [N, C, ...] of the logits.
LOGITS = {
    "a tile and a bit": (2, 5, 13, 11),
    "one pixel": (3, 4, 1, 1),
    "two classes": (1, 2, 9, 5),
    "1-D": (2, 3, 300),
    "3-D": (1, 4, 3, 5, 7),
    "more than one chunk": (1, 3, 65, 131),
    "beyond the registers of a GPU thread": (1, 40, 7, 19),
    "the most that the CUDA fast path takes": (1, 32, 6, 50),
    "a tile and a pixel, classes that are no whole vectors": (1, 19, 3, 43),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "squares": {"exponent": 2},
    "smoothing": {"label_smoothing": 0.1},
    "focal": {"gamma": 2.0},
    "focal, gamma below 1": {"gamma": 0.5},
    "all at once": {"exponent": 2, "label_smoothing": 0.2, "gamma": 1.5},
    "minimum": {"minimum": True},
}

INTEGERS = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
)

# float32 sums against float64 ones: pixels are added in pieces of 128 and then in double, so the
# error is that of a few roundings of each term. 16-bit logits are exact in float32.
SUMS = {"rtol": 5e-6, "atol": 1e-6}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weights_for(shape: tuple[int, ...], sigmoid: bool) -> dict[str, Tensor]:
    weights = {
        "class_weight": torch.rand(shape[1]),
        "pixel_weight": torch.rand(shape[0], *shape[2:]),
    }
    if sigmoid:
        weights["pos_weight"] = 2 * torch.rand(shape[1])
    return weights


def labels_for(shape: tuple[int, ...], ignored: int | None = -1) -> Tensor:
    labels = torch.randint(shape[1] if shape[1] > 1 else 2, (shape[0], *shape[2:]))
    if ignored is not None:
        labels[torch.rand(labels.shape) < 0.2] = ignored
    return labels


def lay_out_any(tensor: Tensor, layout: str) -> Tensor:
    if layout == "channels_last" and tensor.dim() == 5:
        return tensor.contiguous(memory_format=torch.channels_last_3d)
    if layout == "channels_last" and tensor.dim() != 4:
        return tensor
    return lay_out(tensor, layout)


def assert_equals_twin(
    logits: Tensor,
    target: Tensor,
    sigmoid: bool,
    ignored: int | None = -1,
    scale_of_gradient: float = 1.0,
    **options: Any,
) -> None:
    """Sums and gradients are those of the twin in float64."""
    mode = "multilabel" if sigmoid else "multiclass"
    mine = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    theirs = logits.detach().double().requires_grad_()
    options = {
        key: x.to(logits.device) if isinstance(x, Tensor) else x for key, x in options.items()
    }
    actual = F.overlap_stats(mine, target, mode, ignored, **options)
    order = ("class_weight", "pos_weight", "pixel_weight")
    expected = twin.overlap_stats(
        theirs,
        target,
        *(options.get(name) for name in order),
        sigmoid,
        ignored,
        options.get("exponent", 1),
        options.get("label_smoothing", 0.0),
        options.get("gamma", 0.0),
        options.get("minimum", False),
    )
    tolerance = EXACT if logits.dtype == torch.float64 else SUMS
    torch.testing.assert_close(tuple(actual), expected, **tolerance)

    grads = [torch.randn(x.shape, dtype=x.dtype, device=x.device) for x in expected]
    (grad,) = torch.autograd.grad(
        [actual[i] for i in (0, 1, 3)], mine, [grads[i] for i in (0, 1, 3)]
    )
    (expected_grad,) = torch.autograd.grad(
        [expected[i] for i in (0, 1, 3)], theirs, [grads[i] for i in (0, 1, 3)]
    )
    assert grad.dtype == logits.dtype
    assert grad.is_contiguous(memory_format=dense_format_of(logits))
    # One rounding to the type of the logits, on top of float32's.
    eps = torch.finfo(logits.dtype).eps
    # All classes' gradients hold one sum over the C classes of terms up to 3, whose rounding may
    # come to C * 3 * 6e-8 = C / 6 * 1e-6; chance lets half of that and less happen.
    atol = 1e-6 * max(1, scale_of_gradient, logits.shape[1] / 12)
    tolerance = EXACT if logits.dtype == torch.float64 else {"rtol": eps + 5e-6, "atol": atol}
    torch.testing.assert_close(grad.double(), expected_grad, **tolerance)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
def test_equals_twin(device: torch.device, dtype: torch.dtype, layout: str, sigmoid: bool) -> None:
    for shape in LOGITS.values():
        logits = lay_out_any((3 * torch.randn(shape)).to(device=device, dtype=dtype), layout)
        labels = labels_for(shape).to(device)
        assert_equals_twin(logits, labels, sigmoid)
        assert_equals_twin(
            logits, labels, sigmoid, **OPTIONS["all at once"], **weights_for(shape, sigmoid)
        )


@pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_options(
    device: torch.device, sigmoid: bool, options: dict[str, Any], dtype: torch.dtype
) -> None:
    for shape in LOGITS.values():
        logits = (3 * torch.randn(shape)).to(device=device, dtype=dtype)
        weights = weights_for(shape, sigmoid)
        assert_equals_twin(logits, labels_for(shape).to(device), sigmoid, **options, **weights)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["soft", "one-hot", "boolean"])
def test_a_target_for_each_class(
    device: torch.device, layout: str, sigmoid: bool, kind: str
) -> None:
    for shape in LOGITS.values():
        logits = lay_out_any(3 * torch.randn(shape, device=device), layout)
        target = torch.rand(shape, device=device)
        if kind != "soft":
            target = (target > 0.5).to(torch.int8 if kind == "one-hot" else torch.bool)
        if kind != "boolean":
            target[torch.rand(shape, device=device) < 0.1] = -1
        for name in ("plain", "squares", "all at once", "minimum"):
            weights = weights_for(shape, sigmoid)
            assert_equals_twin(
                logits, lay_out_any(target, layout), sigmoid, **OPTIONS[name], **weights
            )


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_integer_labels(device: torch.device, dtype: torch.dtype, channels: int) -> None:
    logits = torch.randn(2, channels, 5, 6, device=device)
    labels = labels_for(logits.shape, None).to(device)
    mode = "binary" if channels == 1 else "multiclass"
    ignored = 100  # fits all types
    labels[0, 0] = ignored
    expected = F.overlap_stats(logits, labels, mode, ignored)
    actual = F.overlap_stats(logits, labels.to(dtype), mode, ignored)
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0)


def test_binary_takes_labels_maps_and_booleans(device: torch.device) -> None:
    logits = torch.randn(2, 1, 5, 6, device=device)
    labels = torch.randint(2, (2, 5, 6), device=device)
    expected = F.overlap_stats(logits, labels, "binary")
    for target in (labels.bool(), labels.unsqueeze(1), labels.unsqueeze(1).float()):
        actual = F.overlap_stats(logits, target, "binary")
        torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0)


def test_means_are_torchs_cross_entropy(device: torch.device) -> None:
    """cross_entropy / weight over the batch is the mean of torch's losses."""
    logits = torch.randn(2, 5, 9, 8, dtype=torch.float64, device=device)
    labels = labels_for(logits.shape).to(device)
    weight = torch.rand(5, dtype=torch.float64, device=device)
    for smoothing in (0.0, 0.3):
        stats = F.overlap_stats(
            logits, labels, ignore_index=-1, class_weight=weight, label_smoothing=smoothing
        )
        expected = torch.nn.functional.cross_entropy(
            logits, labels, weight, ignore_index=-1, label_smoothing=smoothing
        )
        actual = stats.cross_entropy.sum() / stats.weight.sum()
        torch.testing.assert_close(actual, expected, **EXACT)
    target = torch.rand_like(logits)
    stats = F.overlap_stats(logits, target, "multilabel", pos_weight=weight)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=weight[:, None, None]
    )
    torch.testing.assert_close(stats.cross_entropy.sum() / stats.weight.sum(), expected, **EXACT)


def test_gradient_of_a_confident_network_keeps_its_digits(device: torch.device) -> None:
    """p_y rounds to 1 in float32; the gradient by the true class is minus the others' sum."""
    logits = torch.tensor([20.0, 0.0, 1.0], device=device).reshape(1, 3, 1).requires_grad_()
    stats = F.overlap_stats(logits, torch.zeros(1, 1, dtype=torch.long, device=device))
    (grad,) = torch.autograd.grad(stats.cross_entropy.sum(), logits)
    exact = logits.detach().double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        exact, torch.zeros(1, 1, dtype=torch.long, device=device)
    )
    (expected,) = torch.autograd.grad(loss, exact)
    torch.testing.assert_close(grad.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ignored", [None, -1, 2])
def test_neighbours_of_one_label(device: torch.device, layout: str, ignored: int | None) -> None:
    """Whole tiles of one label, of which the last one is a class, or the one that is ignored."""
    logits = lay_out_any(3 * torch.randn(1, 3, 31, 33), layout).to(device)
    labels = torch.zeros(1, 31, 33, dtype=torch.int64, device=device)
    labels[:, 10:20] = 1
    labels[:, 20:] = 2 if ignored is None else ignored
    stats = F.overlap_stats(logits, labels, "multiclass", ignored)
    counts = torch.ones_like(labels) if ignored is None else (labels != ignored).long()
    one_hot = torch.stack([(labels == c) * counts for c in range(3)], 1)
    p = logits.double().softmax(1) * counts.unsqueeze(1)
    torch.testing.assert_close(stats.intersection, (p * one_hot).flatten(2).sum(2), **SUMS)
    torch.testing.assert_close(stats.probability, p.flatten(2).sum(2), **SUMS)
    assert torch.equal(stats.target, one_hot.flatten(2).sum(2).double())


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_ignored_pixels_take_part_in_nothing(device: torch.device, mode: str) -> None:
    logits = torch.randn(2, 3, 9, 9, device=device)
    labels = torch.randint(3, (2, 9, 9), device=device)
    labels[0, :, 4:] = 255
    labels[1] = 255
    clean = F.overlap_stats(logits, labels, mode, 255)
    dirty = logits.masked_fill((labels == 255).unsqueeze(1), torch.nan).requires_grad_()
    stats = F.overlap_stats(dirty, labels, mode, 255, label_smoothing=0.1, exponent=1)
    for name in ("intersection", "probability", "target", "pixels", "weight"):
        torch.testing.assert_close(getattr(stats, name), getattr(clean, name), rtol=0, atol=0)
    assert all((x[1] == 0).all() for x in stats)
    (grad,) = torch.autograd.grad(sum(x.sum() for x in stats if x.requires_grad), dirty)
    assert (grad.masked_select((labels == 255).unsqueeze(1)) == 0).all()
    assert torch.isfinite(grad).all()


def test_nan_and_infinite_logits(device: torch.device) -> None:
    logits = torch.zeros(3, 2, 4, device=device)
    labels = torch.zeros(3, 4, dtype=torch.long, device=device)
    logits[0, 0, 0] = torch.nan
    logits[1, 1, 0] = -torch.inf  # a class that is ruled out: probability 0, no loss
    stats = F.overlap_stats(logits, labels)
    assert stats.intersection[0].isnan().any()
    assert stats.cross_entropy[0].isnan()
    torch.testing.assert_close(stats.intersection[1].cpu(), torch.tensor([2.5, 0]).double())
    assert stats.probability[2].isfinite().all()
    large = F.overlap_stats(
        torch.tensor([[[3e4, -3e4]]], device=device),
        torch.tensor([[1, 0]], device=device),
        "binary",
    )
    assert all(x.isfinite().all() for x in large)


def test_same_bits_for_any_number_of_threads() -> None:
    logits, labels = torch.randn(2, 4, 131, 97), torch.randint(4, (2, 131, 97))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            x = logits.clone().requires_grad_()
            stats = F.overlap_stats(x, labels)
            (grad,) = torch.autograd.grad(stats.intersection.sum() + stats.cross_entropy.sum(), x)
            results.append((*stats, grad))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_empty_batches_and_images(device: torch.device) -> None:
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        logits = torch.zeros(shape, device=device, requires_grad=True)
        stats = F.overlap_stats(
            logits, torch.zeros(shape[0], *shape[2:], dtype=torch.long, device=device)
        )
        assert stats.intersection.shape == shape[:2]
        assert all((x == 0).all() for x in stats)
        (grad,) = torch.autograd.grad(stats.intersection.sum(), logits)
        assert grad.shape == shape


L = torch.zeros(2, 3, 4, 4)
Y = torch.zeros(2, 4, 4, dtype=torch.long)
BAD: dict[str, tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = {
    "labels beyond the classes": (
        IndexError,
        "labels 0 to 2, but holds labels from 0 to 3",
        (L, Y + (torch.arange(4) == 1) * 3),
        {},
    ),
    "negative labels": (IndexError, "from -1 to -1", (L, Y - 1), {}),
    "mask of 0 and 255": (IndexError, "labels 0 to 1", (L[:, :1], Y + 255, "binary"), {}),
    "soft target above 1": (IndexError, "between 0 and 1", (L, L + 255.0, "multilabel"), {}),
    "float labels": (TypeError, "integer labels", (L, Y.float()), {}),
    "other spatial size": (ValueError, r"shape \[2, 4, 4\]", (L, Y[:, :3]), {}),
    "other batch": (ValueError, "target must have shape", (L, Y[:1]), {}),
    "softmax of one channel": (ValueError, "binary", (L[:, :1], Y), {}),
    "binary with three channels": (ValueError, r"\[N, 1, \.\.\.\]", (L, Y, "binary"), {}),
    "no such mode": (ValueError, "multiclass, binary, multilabel", (L, Y, "softmax"), {}),
    "no spatial dimension": (ValueError, r"\[N, C, \.\.\.\]", (L[..., 0, 0], Y[..., 0, 0]), {}),
    "exponent": (ValueError, "exponent must be 1 or 2, got 3", (L, Y), {"exponent": 3}),
    "smoothing": (ValueError, "between 0 and 1, got 1.5", (L, Y), {"label_smoothing": 1.5}),
    "gamma": (ValueError, "must not be negative", (L, Y), {"gamma": -1.0}),
    "class_weight shape": (
        ValueError,
        r"class_weight must have shape \[3\]",
        (L, Y),
        {"class_weight": torch.ones(4)},
    ),
    "integer class_weight": (
        TypeError,
        "class_weight must be floating",
        (L, Y),
        {"class_weight": torch.ones(3).int()},
    ),
    "pixel_weight shape": (
        ValueError,
        "pixel_weight must have shape",
        (L, Y),
        {"pixel_weight": torch.ones(2, 4)},
    ),
    "pos_weight with softmax": (ValueError, "sigmoid", (L, Y), {"pos_weight": torch.ones(3)}),
    "negative class_weight": (
        ValueError,
        "class_weight must not be negative, got -1",
        (L, Y),
        {"class_weight": torch.tensor([1.0, -1.0, 1.0])},
    ),
    "negative pos_weight": (
        ValueError,
        "pos_weight must not be negative, got -2",
        (L, L, "multilabel"),
        {"pos_weight": torch.tensor([-2.0])},
    ),
    "negative pixel_weight": (
        ValueError,
        "pixel_weight must not be negative, got -0.5",
        (L, Y),
        {"pixel_weight": torch.full((2, 4, 4), -0.5)},
    ),
    "weights of NaN": (
        ValueError,
        "pixel_weight must not be negative, got -?nan",
        (L, Y),
        {"pixel_weight": torch.full((2, 4, 4), torch.nan)},
    ),
    "complex logits": (
        RuntimeError,
        "^logits must be float32, float64, float16 or bfloat16, got Complex",
        (L.to(torch.complex64), Y),
        {},
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input(case: tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]) -> None:
    error, message, arguments, options = case
    with pytest.raises(error, match=message):
        F.overlap_stats(*arguments, **options)


@pytest.mark.parametrize("case", [c for c in BAD.values() if c[0] in (ValueError, IndexError)][:6])
def test_the_twin_refuses_the_same(
    case: tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]],
) -> None:
    error, message, (logits, target, *mode), _ = case
    with pytest.raises(error, match=message):
        twin.overlap_stats(logits, target, None, None, None, bool(mode), None, 1, 0.0, 0.0, False)


@pytest.mark.parametrize("name", ["target", "class_weight", "pos_weight", "pixel_weight"])
def test_only_logits_have_derivatives(name: str) -> None:
    """A target or weight that wants a gradient is refused, where it would get none in silence."""
    tensors = {
        "target": torch.rand(2, 3, 4, 4),
        "class_weight": torch.rand(3),
        "pos_weight": torch.rand(3),
        "pixel_weight": torch.rand(2, 4, 4),
    }

    def cross_entropy(x: Tensor) -> Tensor:
        return F.overlap_stats(L, mode="multilabel", **(tensors | {name: x})).cross_entropy.sum()

    given = tensors[name]
    with torch.no_grad():
        expected = cross_entropy(given.clone().requires_grad_())
    assert cross_entropy(given) == expected
    calls: list[Callable[[], Any]] = [
        lambda: cross_entropy(given.clone().requires_grad_()),
        lambda: torch.func.grad(cross_entropy)(given),
        lambda: torch.func.jvp(cross_entropy, (given,), (torch.ones_like(given),)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="derivative by .* is not implemented: detach"):
            call()


def test_losses_refuse_a_target_that_wants_a_gradient() -> None:
    target = torch.rand(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="derivative by target is not implemented: detach it"):
        losses.DiceLoss("multilabel")(L.clone().requires_grad_(), target)


@pytest.mark.parametrize("weights_too", [False, True])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_vmap_with_pixel_weights(device: torch.device, sigmoid: bool, weights_too: bool) -> None:
    """Sums and gradients of each example, with a map of weights for each, or one for all."""
    examples, shape = 3, (2, 4, 5, 3)
    logits = torch.randn(examples, *shape, device=device)
    labels = torch.randint(4, (examples, 2, 5, 3), device=device)
    weights = torch.rand(examples if weights_too else 1, 2, 5, 3, device=device)

    def loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        mode = "multilabel" if sigmoid else "multiclass"
        return F.overlap_stats(z, y, mode, pixel_weight=w).cross_entropy.sum()

    dims = (0, 0, 0 if weights_too else None)
    given = weights if weights_too else weights[0]
    values = torch.vmap(loss, dims)(logits, labels, given)
    grads = torch.vmap(torch.func.grad(loss), dims)(logits, labels, given)
    for i in range(examples):
        z, w = logits[i].clone().requires_grad_(), weights[i if weights_too else 0]
        expected = loss(z, labels[i], w)
        torch.testing.assert_close(values[i], expected, rtol=0, atol=0)
        (grad,) = torch.autograd.grad(expected, z)
        torch.testing.assert_close(grads[i], grad, rtol=0, atol=0)


def random_problem(seed: int) -> tuple[Tensor, Tensor, bool, int | None, dict[str, Any]]:
    """Logits, target, whether sigmoid, ignore_index and options: all of them drawn, so that they
    meet in every combination, with 1 to 256 classes in 1 to 3 dimensions."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    some = lambda: draw.random() < 0.4  # noqa: E731
    sigmoid = some()
    classes = draw.choice([2, 3, 8, 12, 19, 32, 33, 64, 128, draw.randint(2, 256)])
    classes = 1 if sigmoid and draw.random() < 0.3 else classes
    dimensions = draw.randint(1, 3)
    space = [draw.randint(1, (300, 24, 9)[dimensions - 1]) for _ in range(dimensions)]
    shape = (draw.randint(1, 3), classes, *space)
    logits = draw.choice([0.1, 1, 3, 10, 50]) * torch.randn(shape, dtype=torch.float64)
    logits = lay_out_any(logits.to(draw.choice(FLOATS)), draw.choice(LAYOUTS))
    ignored = draw.choice([None, -1, 255, -100, 0, classes - 1])
    share = 0.0 if ignored is None else draw.choice([0.1, 0.5, 1.0])
    if draw.random() < 0.6:
        target = labels_for(shape, None)
        target[torch.rand(target.shape) < share] = ignored or 0
        dtype = draw.choice([x for x in INTEGERS if torch.equal(target.to(x).long(), target)])
    else:
        target = torch.rand(shape, dtype=torch.float64)
        dtype = draw.choice(FLOATS)
        if some():  # one-hot, or any 0 and 1
            target, dtype = target.round(), draw.choice([*FLOATS, torch.int16, torch.int64])
        target[torch.rand(shape) < share / classes] = ignored or 0
        target = lay_out_any(target, draw.choice(LAYOUTS))
    options: dict[str, Any] = {
        name: weight.to(draw.choice([torch.float16, torch.float32, torch.float64]))
        for name, weight in weights_for(shape, sigmoid).items()
        if some()
    }
    if "class_weight" in options and some():
        options["class_weight"] = options["class_weight"][:1]  # one for all
    if some():
        options["exponent"] = 2
    if some():
        options["label_smoothing"] = draw.choice([0.1, 1.0])
    if some():
        options["gamma"] = draw.choice([0.5, 1.0, 2.0, 5.0])
    options["minimum"] = some()
    return logits, target.to(dtype), sigmoid, ignored, options


@pytest.mark.parametrize(
    "seeds", [range(50), pytest.param(range(50, 4000), marks=pytest.mark.nightly)], ids=str
)
def test_all_options_together(device: torch.device, seeds: range) -> None:
    for seed in seeds:
        logits, target, sigmoid, ignored, options = random_problem(seed)
        try:  # of the random slopes, up to 4, each gradient holds a few that cancel
            assert_equals_twin(
                logits.to(device), target.to(device), sigmoid, ignored, 4.0, **options
            )
        except Exception as error:
            raise AssertionError(f"random_problem({seed})") from error


@pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [1, 2, 3, 31, 32, 33, 64, 150, 255, 256])
def test_any_number_of_classes(device: torch.device, classes: int, sigmoid: bool) -> None:
    """Around the edges of vectors and registers, up to all values of a uint8 label."""
    if classes == 1 and not sigmoid:
        return
    shape = (2, classes, 7, 9)
    logits = (3 * torch.randn(shape)).to(device)
    labels = labels_for(shape, None).to(device=device, dtype=torch.uint8)
    assert_equals_twin(logits, labels, sigmoid)
    assert_equals_twin(logits, labels.long().masked_fill(labels == 0, -1), sigmoid, gamma=2.0)


def test_negative_ignore_index_is_not_a_bad_label() -> None:
    stats = F.overlap_stats(L, Y - 100, ignore_index=-100)
    assert all((x == 0).all() for x in stats)


def test_memory_is_the_gradient_and_nothing_else() -> None:
    """Forward and backward allocate the gradient of the logits and small sums."""
    logits = torch.randn(1, 8, 256, 256, requires_grad=True)
    labels = torch.randint(8, (1, 256, 256))

    def both_ways() -> None:
        F.overlap_stats(logits, labels).cross_entropy.sum().backward()

    peak = peak_bytes(both_ways, logits.device)
    assert logits.nbytes <= peak <= 1.01 * logits.nbytes


def weighted(x: Tensor, target: Tensor, class_weight: Tensor | None, **options: Any) -> Any:
    return tuple(F.overlap_stats(x, target, class_weight=class_weight, **options))


class TestSoftmax(OpTester):
    op = staticmethod(
        lambda x, target, weight, gamma: weighted(
            x, target, weight, ignore_index=1, exponent=2, gamma=gamma
        )
    )
    overloads = ("overlap_stats", "overlap_stats_backward")

    def small(self) -> Iterator[Arguments]:
        logits = torch.randn(2, 3, 2, 2, dtype=torch.float64)
        labels = torch.randint(3, (2, 2, 2))
        yield logits.clone(), labels, torch.rand(3, dtype=torch.float64), 0.0
        yield logits.clone(), torch.rand(2, 3, 2, 2, dtype=torch.float64), None, 1.5

    def differentiable_outputs(self, *arguments: Any) -> tuple[Tensor, ...]:
        outputs = self.call(arguments)
        return outputs[0], outputs[1], outputs[3]

    def overload_arguments(self, name: str) -> Iterator[Arguments]:
        for logits, target, weight, gamma in self.small():
            grads = (torch.randn(2, 3).double(), None, torch.randn(2).double())
            yield (
                logits,
                target,
                weight,
                None,
                None,
                *(grads if name.endswith("backward") else ()),
                False,
                1,
                2,
                0.0,
                gamma,
                False,
            )


class TestSigmoid(TestSoftmax):
    op = staticmethod(
        lambda x, target, weight, gamma: weighted(
            x, target, weight, mode="multilabel", label_smoothing=0.1, gamma=gamma
        )
    )
