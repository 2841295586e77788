"""The ops: stateless, differentiable any number of times, whole under torch.compile and vmap.

Tensors are dense: a sparse, nested or MKL-DNN one is a RuntimeError that says how to make it dense.
Those of the meta device give shapes alone.
"""

from segfast.functional.confusion_matrix import confusion_matrix
from segfast.functional.max_pool2d import max_pool2d, max_pool2d_with_codes
from segfast.functional.max_unpool2d import max_unpool2d, max_unpool2d_with_codes
from segfast.functional.overlap_stats import OverlapStats, overlap_stats
from segfast.functional.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from segfast.functional.pool_codes import codes_to_indices, indices_to_codes
from segfast.functional.subpixel_upsample import subpixel_upsample

__all__ = [
    "OverlapStats",
    "codes_to_indices",
    "confusion_matrix",
    "indices_to_codes",
    "max_pool2d",
    "max_pool2d_with_codes",
    "max_unpool2d",
    "max_unpool2d_with_codes",
    "overlap_stats",
    "pixel_shuffle",
    "pixel_unshuffle",
    "subpixel_upsample",
]
