"""The fused losses of plain eager calls: the same numbers as in steps, and what autograd asks of
them. Their formulas are tested in test_losses.py, which takes whichever way a call takes."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx

from segfast import functional as F
from segfast import losses as L

IGNORED = 255


class Problem:
    """A loss of the fused kind with every option drawn, and its arguments."""

    def __init__(self, seed: int, device: torch.device) -> None:
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.dtype = draw.choice([torch.float64, torch.float32, torch.float16, torch.bfloat16])
        mode = draw.choice(["multiclass", "multiclass", "binary", "multilabel"])
        samples = draw.randint(1, 3)
        classes = 1 if mode == "binary" else draw.choice([2, 3, 5, 19, 40])
        if mode == "multilabel" and draw.random() < 0.2:
            classes = 1
        size = draw.choice([(7,), (5, 9), (16, 16), (2, 3, 4), (0, 3)])
        self.loss = self._loss(draw, mode, classes).to(device)

        logits = 2 * torch.randn(samples, classes, *size)
        if draw.random() < 0.1:
            logits.flatten()[:1] = torch.nan
        if draw.random() < 0.3 and len(size) == 2:
            logits = logits.contiguous(memory_format=torch.channels_last)
        self.logits = logits.to(device, self.dtype).requires_grad_()

        if draw.random() < 0.3:  # a target for each class
            soft = draw.random() < 0.6
            target = torch.rand(samples, classes, *size)
            target = target if soft else target.round().to(draw.choice([torch.uint8, torch.int64]))
            target[:, -1] *= draw.choice([0, 1])
        else:
            labels = max(classes - draw.choice([0, 0, 1]), 1) if classes > 1 else 2
            target = torch.randint(labels, (samples, *size))
        ignored = torch.rand(target.shape) < draw.choice([0, 0.3])
        if draw.random() < 0.3:
            ignored[-1] = True
        self.target = target.masked_fill(ignored, IGNORED).to(device)

        self.pixel_weight = None
        if draw.random() < 0.3:
            self.pixel_weight = torch.rand(samples, *size, device=device)

    def _loss(self, draw: random.Random, mode: str, classes: int) -> L.StatsLoss:
        def weight() -> Tensor | None:
            return torch.rand(classes).round(decimals=1) if draw.random() < 0.4 else None

        def region() -> L.StatsLoss:
            name = draw.choice(["DiceLoss", "JaccardLoss", "TverskyLoss", "FBetaLoss"])
            own = {
                "TverskyLoss": {"alpha": draw.random(), "beta": draw.choice([0.0, 0.7])},
                "FBetaLoss": {"beta": 0.5 + draw.random()},
            }
            result: L.StatsLoss = getattr(L, name)(
                mode,
                ignore_index=IGNORED,
                reduce=draw.choice(["sample", "batch", "global"]),
                smooth=draw.choice([1e-5, 1, (0.0, 1.0), (0.5, 0.0), 0.0]),
                empty=draw.choice(["skip", "zero", "one", "include"]),
                link=draw.choice(["linear", "linear", "negative", "log"]),
                power=draw.choice([1.0, 1.0, 2.0, 0.75]),
                class_weight=weight(),
                include_background=mode == "binary" or classes == 1 or draw.random() < 0.6,
                exponent=draw.choice([1, 2]),
                reduction=draw.choice(["mean", "mean", "sum"]),
                **own.get(name, {}),
            )
            return result

        def pixel() -> L.StatsLoss:
            options: dict[str, Any] = {
                "ignore_index": IGNORED,
                "reduce": draw.choice(["sample", "batch", "global"]),
                "class_weight": weight(),
                "label_smoothing": draw.choice([0.0, 0.1]),
                "reduction": draw.choice(["mean", "mean", "sum"]),
            }
            if draw.random() < 0.4:
                alpha = draw.choice([None, 0.3]) if mode != "multiclass" else None
                return L.FocalLoss(mode, gamma=draw.choice([0.0, 1.5, 2.0]), alpha=alpha, **options)
            if mode == "multiclass":
                return L.CrossEntropyLoss(**options)
            return L.BCELoss(mode, pos_weight=draw.choice([None, [2.5]]), **options)

        kind = draw.randint(0, 3)
        if kind == 0:
            return region()
        if kind == 1:
            return pixel()
        parts = [region(), pixel()]
        draw.shuffle(parts)
        return L.CombinedLoss(parts, [draw.random(), draw.choice([1, 0.5, 3.0])])

    def compare(self) -> None:
        """The loss and its gradient against the same in steps."""
        arguments = (self.logits, self.target, self.pixel_weight)
        actual, expected = self.loss(*arguments), self.loss._composite(*arguments)
        assert actual.grad_fn is not None and actual.grad_fn.name() == "OverlapLossBackward"
        # Both are computed in float64; the last rounding may fall to either side.
        wide = self.dtype == torch.float64
        exact = {"rtol": 1e-12 if wide else 2e-7, "atol": 1e-13, "equal_nan": True}
        torch.testing.assert_close(actual, expected, **exact)
        slope = torch.randn_like(actual)
        (mine,) = torch.autograd.grad(actual, self.logits, slope)
        (theirs,) = torch.autograd.grad(expected, self.logits, slope)
        assert mine.stride() == theirs.stride()
        step = {torch.float64: 1e-11, torch.float32: 1e-6}.get(
            self.dtype, 2 * torch.finfo(self.dtype).eps
        )
        size = theirs.nan_to_num().abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(mine, theirs, rtol=step, atol=step * size, equal_nan=True)
        with torch.no_grad():
            silent = self.loss(*arguments)
        assert not silent.requires_grad
        torch.testing.assert_close(silent, actual.detach(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "seeds", [range(300), pytest.param(range(300, 5000), marks=pytest.mark.nightly)], ids=str
)
def test_the_same_numbers_as_in_steps(device: torch.device, seeds: range) -> None:
    for seed in seeds:
        problem = Problem(seed, device)
        try:
            problem.compare()
        except AssertionError as error:
            raise AssertionError(f"Problem({seed}): {problem.loss}") from error


def small(device: torch.device | str = "cpu") -> tuple[L.StatsLoss, Tensor, Tensor]:
    loss = L.DiceCELoss(reduce="sample", class_weight=[1.0, 2.0, 0.5]).to(device)
    logits = torch.randn(2, 3, 4, 3, dtype=torch.float64, device=device, requires_grad=True)
    return loss, logits, torch.randint(3, (2, 4, 3), device=device)


def test_derivatives_of_both_orders(device: torch.device) -> None:
    loss, logits, labels = small(device)
    torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,))
    torch.autograd.gradgradcheck(lambda x: loss(x, labels), (logits,))


def test_second_derivatives_reach_beyond_the_logits() -> None:
    """A gradient penalty on what the logits are made of."""
    loss, logits, labels = small()
    layer = nn.Conv2d(3, 3, 1).double()
    results = []
    for call in (loss, lambda x, y: loss._composite(x, y, None)):
        x = layer(logits)
        (first,) = torch.autograd.grad(call(x, labels), logits, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [logits, *layer.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_many_gradients_at_once() -> None:
    loss, logits, labels = small()
    value = loss(logits, labels)
    (grad,) = torch.autograd.grad(value, logits, retain_graph=True)
    slopes = torch.randn(5, dtype=torch.float64)
    (grads,) = torch.autograd.grad(value, logits, slopes, is_grads_batched=True)
    torch.testing.assert_close(grads, slopes.view(-1, 1, 1, 1, 1) * grad)


def test_under_compiled_autograd() -> None:
    loss, logits, labels = small()
    graphs: list[str] = []

    def compiler(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        graphs.append(graph.code)
        return graph

    for _ in range(2):
        labels = labels.flip(1)
        value = loss(logits, labels)
        (expected,) = torch.autograd.grad(value, logits, retain_graph=True)
        with compiled_autograd._enable(compiler):
            value.backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, expected, rtol=0, atol=0)
        logits.grad = None
    assert len(graphs) == 1 and "overlap_stats_backward" in graphs[0]


def test_saved_tensors_may_go_elsewhere() -> None:
    loss, logits, labels = small()
    weight = torch.rand(labels.shape)
    (expected,) = torch.autograd.grad(loss(logits, labels, weight), logits)
    packed: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        packed.append(x)
        return x.clone()

    with saved_tensors_hooks(pack, lambda x: x):
        value = loss(logits, labels, weight)
    assert [x.shape for x in packed] == [logits.shape, labels.shape, (3,), weight.shape]
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], expected, rtol=0, atol=0)

    def refuse(x: Tensor) -> Tensor:
        raise ValueError("not here")

    with saved_tensors_hooks(refuse, lambda x: x), pytest.raises(ValueError, match="not here"):
        loss(logits, labels)


def test_autograd_keeps_its_rules() -> None:
    """A second backward pass, changed data, nothing held after the first, hooks, no gradient."""
    loss, logits, labels = small()
    value = loss(logits, labels)
    value.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()

    value = loss(logits, labels)
    labels.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()

    value = loss(logits, labels)
    seen: list[Tensor] = []
    value.register_hook(lambda grad: grad * 2)
    logits.register_hook(seen.append)
    (grad,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(grad, seen[0])
    torch.testing.assert_close(grad, 2 * torch.autograd.grad(loss(logits, labels), logits)[0])

    assert not loss(logits.detach(), labels).requires_grad
    with torch.inference_mode():
        assert loss(logits, labels).is_inference()


def test_a_loss_may_end_before_its_graph() -> None:
    loss, logits, labels = small()
    value = loss(logits, labels)
    gone = weakref.ref(loss)
    del loss
    torch.autograd.grad(value, logits, create_graph=True)[0].sum().backward()
    del value
    gc.collect()
    assert gone() is None


def test_what_is_not_plain_is_computed_in_steps() -> None:
    """Subclasses, forward mode, weights that want gradients, and losses of your own."""

    class Marked(Tensor):
        pass

    class Own(L.DiceLoss):
        def linked(self, score: Tensor) -> Tensor:
            return 3 - score

    loss, logits, labels = small()
    expected = loss(logits, labels)
    marked = loss(logits.as_subclass(Marked), labels)
    torch.testing.assert_close(marked.as_subclass(Tensor), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits.detach(), torch.randn_like(logits))
        assert torch.autograd.forward_ad.unpack_dual(loss(dual, labels)).tangent is not None
    region = L.DiceLoss(class_weight=[1.0, 2.0, 3.0])
    assert region.class_weight is not None
    region.class_weight.requires_grad_()
    region(logits, labels).backward()
    assert region.class_weight.grad is not None
    torch.testing.assert_close(Own()(logits, labels), L.DiceLoss()(logits, labels) + 2)
    sums = L.CombinedLoss([Own(), L.CrossEntropyLoss()])(logits, labels)
    torch.testing.assert_close(sums, L.DiceCELoss()(logits, labels) + 2)


def test_traced_calls_are_ops() -> None:
    loss, logits, labels = small()

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad(loss(x, y), x)[0]

    graph = make_fx(gradient)(logits, labels)
    torch.testing.assert_close(graph(logits, labels), gradient(logits, labels))
    assert "overlap_stats_backward" in graph.code
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = loss(mode.from_tensor(logits), mode.from_tensor(labels))
    assert isinstance(fake, FakeTensor) and fake.shape == ()
    program = torch.export.export(loss, (logits.detach(), labels))
    assert "overlap_stats" in program.graph_module.code
    torch.testing.assert_close(program.module()(logits, labels), loss(logits, labels))


def test_a_loss_may_change() -> None:
    """Attributes are read at each call."""
    loss, logits, labels = small()
    dice = L.DiceLoss()
    dice.link, dice.smooth, dice.ignore_index = "log", (1.0, 2.0), 1
    changed = L.DiceLoss(link="log", smooth=(1.0, 2.0), ignore_index=1)
    torch.testing.assert_close(dice(logits, labels), changed(logits, labels), rtol=0, atol=0)
    half = loss.half()
    torch.testing.assert_close(half(logits, labels), half._composite(logits, labels, None))


def test_lazily_negated_logits() -> None:
    """A view whose memory holds the opposite numbers."""
    loss, logits, labels = small()
    values, weight, slope = logits.detach(), torch.rand(labels.shape), torch.tensor(2.0).double()
    (expected,) = torch.autograd.grad(loss(logits, labels, weight), logits, slope)
    z, w, g = (torch._neg_view(-x) for x in (values, weight, slope))
    assert z.is_neg() and z.is_contiguous()
    (actual,) = torch.autograd.grad(loss(z.requires_grad_(), labels, w), z, g)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    stats = F.overlap_stats(z.detach(), labels)
    torch.testing.assert_close(stats, F.overlap_stats(values, labels), rtol=0, atol=0)


def test_refuses_negative_pixel_weights() -> None:
    loss, logits, labels = small()
    with pytest.raises(ValueError, match="pixel_weight must not be negative"):
        loss(logits, labels, -torch.ones(labels.shape))
