"""Metrics for segmentation, as torchmetrics metrics: metric.update(logits, labels);
metric.compute().

:class:`ConfusionMatrix`, :class:`MeanIoU`, :class:`DiceScore`, :class:`PixelAccuracy`. They count
with :func:`segfast.functional.confusion_matrix`: exact, no wait for the device, and no temporary of
the image's size. Needs torchmetrics: ``pip install 'segfast[metrics]'``.
"""

from segfast.metrics.confusion_matrix import ConfusionMatrix
from segfast.metrics.scores import DiceScore, MeanIoU, PixelAccuracy

__all__ = ["ConfusionMatrix", "DiceScore", "MeanIoU", "PixelAccuracy"]
