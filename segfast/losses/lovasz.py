"""Lovasz losses: the convex surrogates of the Jaccard loss (Berman et al., CVPR 2018).

They sort the errors of all pixels, class by class, which is no function of sums: they hold the
softmax and the order of its errors, about 50 bytes a pixel and class in float32, and take as long
as sorting takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segfast._classes import (
    check_choice,
    check_classes,
    check_ignore_index,
    check_target,
    check_values,
    pick_classes,
)
from segfast._tensors import check_floating, check_tensors
from segfast.losses._base import Weights, as_weights, for_classes


def lovasz_extension(errors: Tensor, positive: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss at errors [..., P], for sets ``positive`` [..., P].

    Of errors of 0 and 1 it is 1 - |Y and Y'| / |Y or Y'|, where Y' is Y but for the errors. Pixels
    with an error of 0 take no part.
    """
    errors, order = errors.sort(dim=-1, descending=True, stable=True)
    hits = positive.gather(-1, order)
    size = hits.sum(-1, keepdim=True, dtype=torch.int32)
    missed = hits.cumsum(-1, dtype=torch.int32)
    rank = torch.arange(1, hits.shape[-1] + 1, dtype=torch.int32, device=hits.device)
    union = (size + rank - missed).to(errors.dtype)
    # A missed pixel takes 1 from the intersection, a wrong one adds 1 to the union. Written so, the
    # steps of the Jaccard loss lose no digits to differences; without positives the first is 1.
    wrong = (size - missed) / (union * (union - 1).clamp(min=1))
    steps = torch.where(hits, 1 / union, wrong) + ((size == 0) & (rank == 1))
    return (errors * steps).sum(-1, dtype=torch.float64)


class _LovaszLoss(nn.Module):
    """What the two share.

    Args:
        mode: ``"multiclass"``, ``"binary"`` or ``"multilabel"``.
        ignore_index: target value of pixels that do not count.
        per_image: the mean of the images' losses rather than the loss of all pixels together.
        classes: the mean is over the ``"present"`` classes (those that counted pixels of the image
            or batch are labelled with), over ``"all"``, or over the listed ones.
        class_weight: [C], weights of the classes in the mean.
    """

    def __init__(
        self,
        mode: str,
        ignore_index: int | None,
        per_image: bool,
        classes: str | Sequence[int],
        class_weight: Weights | None,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.ignore_index = check_ignore_index(ignore_index)
        self.per_image = per_image
        if isinstance(classes, str):
            check_choice("classes", classes, ("present", "all"))
        self.classes = classes
        self.class_weight: Tensor | None
        self.register_buffer(
            "class_weight", as_weights("class_weight", class_weight), persistent=False
        )

    def errors(self, logits: Tensor, positive: Tensor) -> Tensor:
        """The errors [N, C, S] of logits against one-hot targets, not negative."""
        raise NotImplementedError

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...]: a scalar, 0 with gradient 0 where nothing counts.

        Args:
            logits: raw scores, no softmax or sigmoid applied.
            target: labels [N, ...], or 0 and 1 for each class [N, C, ...] in sigmoid modes.

        Raises:
            RuntimeError: logits of another type than float32, float64, float16 and bfloat16.
            IndexError: on the CPU, labels that are no class nor ignored. On CUDA, and compiled, an
                assertion of the device fails.
        """
        check_tensors(logits=logits, target=target)
        check_classes(logits)
        check_floating("logits", logits)
        sigmoid = self.mode != "multiclass"
        if (self.mode == "binary" and logits.shape[1] != 1) or (
            not sigmoid and logits.shape[1] == 1
        ):
            raise ValueError(
                "logits must have one channel in mode 'binary' and more in mode 'multiclass', got "
                f"{list(logits.shape)} in mode {self.mode!r}"
            )
        dense = check_target(logits, target)
        if dense and not sigmoid:
            raise ValueError(f"target must hold labels [N, ...], got {list(target.shape)}")
        check_values(target, dense, max(logits.shape[1], 2), self.ignore_index)
        double = logits.dtype == torch.float64
        if logits.numel() == 0:
            return logits.sum(dtype=torch.float64 if double else torch.float32)
        if not target.is_floating_point():  # uint16 is not compared, and -1 is 255 to uint8
            target = target.long()
        flat = target.flatten(2) if dense else target.flatten(1).unsqueeze(1)
        counts = torch.ones_like(flat, dtype=torch.bool)
        if self.ignore_index is not None:
            counts = flat != self.ignore_index
        if dense or logits.shape[1] == 1:
            positive = (flat > 0.5) & counts
        else:
            every_class = torch.arange(logits.shape[1], device=flat.device).unsqueeze(1)
            positive = (flat == every_class) & counts
        z = logits.flatten(2).to(torch.float64 if double else torch.float32)
        errors = self.errors(z.masked_fill(~counts, 0), positive).masked_fill(~counts, 0)
        groups = [x.unflatten(0, (-1, 1 if self.per_image else len(x))) for x in (errors, positive)]
        rows = [x.transpose(1, 2).flatten(2) for x in groups]  # [G, C, pixels]
        weight = torch.ones_like(rows[0][..., 0], dtype=torch.float64)
        if self.class_weight is not None:
            weight = weight * for_classes(self.class_weight, logits.shape[1])
        if self.classes == "present":
            weight = weight * rows[1].any(-1)
        if not isinstance(self.classes, str):
            rows = [pick_classes(x, self.classes, 1) for x in rows]
            weight = pick_classes(weight, self.classes, 1)
        total = weight.sum(1)
        means = (lovasz_extension(*rows) * weight).sum(1) / total.masked_fill(total == 0, 1)
        mean = means.mean()
        return mean if double else mean.float()

    def extra_repr(self) -> str:
        """mode and the rest, for print()."""
        return (
            f"mode={self.mode!r}, ignore_index={self.ignore_index}, per_image={self.per_image}, "
            f"classes={self.classes!r}"
        )


class LovaszSoftmaxLoss(_LovaszLoss):
    r"""The Lovasz extension of each class's Jaccard loss at the errors :math:`|t_c - p_c|`.

    Args:
        mode: ``"multiclass"``.
        ignore_index: label of pixels that do not count.
        per_image: the mean of the images' losses rather than the loss of all pixels together.
        classes: the mean is over the ``"present"`` classes, over ``"all"``, or over those listed.
        class_weight: [C], weights of the classes in the mean.

    The numbers of the paper's code; see the module for what it costs.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        ignore_index: int | None = None,
        per_image: bool = False,
        classes: str | Sequence[int] = "present",
        class_weight: Weights | None = None,
    ) -> None:
        if mode != "multiclass":
            raise ValueError(f"mode must be 'multiclass', got {mode!r}; use LovaszHingeLoss")
        super().__init__(mode, ignore_index, per_image, classes, class_weight)

    def errors(self, logits: Tensor, positive: Tensor) -> Tensor:
        """See above."""
        return (positive.to(logits.dtype) - logits.softmax(1)).abs()


class LovaszHingeLoss(_LovaszLoss):
    r"""The Lovasz extension of the Jaccard loss at the hinge errors
    :math:`\max(1 - z (2 t - 1), 0)`.

    Args:
        mode: ``"binary"``, or ``"multilabel"`` for the mean over classes.
        ignore_index: target value of pixels that do not count.
        per_image: the mean of the images' losses rather than the loss of all pixels together.
        classes: the mean is over ``"all"`` classes, over the ``"present"`` ones, or over those
            listed. A class without positives costs its largest error.
        class_weight: [C], weights of the classes in the mean.

    The numbers of the paper's code; see the module for what it costs.
    """

    def __init__(
        self,
        mode: str = "binary",
        *,
        ignore_index: int | None = None,
        per_image: bool = False,
        classes: str | Sequence[int] = "all",
        class_weight: Weights | None = None,
    ) -> None:
        if mode not in ("binary", "multilabel"):
            raise ValueError(
                f"mode must be 'binary' or 'multilabel', got {mode!r}; use LovaszSoftmaxLoss"
            )
        super().__init__(mode, ignore_index, per_image, classes, class_weight)

    def errors(self, logits: Tensor, positive: Tensor) -> Tensor:
        """See above."""
        return (1 - logits * torch.where(positive, 1, -1)).relu()
