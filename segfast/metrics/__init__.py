"""Metrics for segmentation, as torchmetrics metrics: metric.update(logits, labels);
metric.compute().

:class:`ConfusionMatrix`, :class:`MeanIoU`, :class:`DiceScore` and :class:`PixelAccuracy` count with
:func:`segfast.functional.confusion_matrix`: exact, no wait for the device, and no temporary of the
image's size. :class:`BoundaryF1` compares outlines. Needs torchmetrics: ``pip install
'segfast[metrics]'``.
"""

from segfast.metrics.boundary import BoundaryF1
from segfast.metrics.confusion_matrix import ConfusionMatrix
from segfast.metrics.scores import DiceScore, MeanIoU, PixelAccuracy

__all__ = ["BoundaryF1", "ConfusionMatrix", "DiceScore", "MeanIoU", "PixelAccuracy"]
