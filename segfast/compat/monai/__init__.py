"""The losses of MONAI 1.6 (Apache-2.0): ``monai.losses``, by their formulas.

=================== ============================================================================
sums                of each sample and class; with ``batch`` of each class
Dice                (2 I + nr) / (P + T + dr); ``jaccard``: (2 I + nr) / (2 (P + T - I) + dr);
                    ``squared_pred``: sums of squares for P and T
Tversky             (I + nr) / (I + alpha (P - I) + beta (T - I) + dr)
Generalized Dice    (2 sum w I + nr) / (sum w (P + T) + dr), w = 1 / T^2, 1 / T or 1; absent
                    classes weigh as much as the rarest
absent class        its score as it is: loss about 1
mean                over samples and classes; ``weight`` multiplies and is not divided by
``soft_label``      intersects by the smaller of p and t
MCC                 (TP TN - FP FN + nr) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN) + dr)
cross-entropy       of all classes, the background too
focal loss          of the sigmoid class by class, or of the softmax; see :class:`FocalLoss`
=================== ============================================================================

Targets are [N, C, ...], or with ``to_onehot_y`` labels [N, 1, ...]. Without ``softmax`` or
``sigmoid`` the input is taken for probabilities and summed in plain PyTorch.
"""

from segfast.compat.monai.combined import DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss
from segfast.compat.monai.focal import FocalLoss
from segfast.compat.monai.overlap import (
    DiceLoss,
    GeneralizedDiceLoss,
    MaskedDiceLoss,
    MCCLoss,
    TverskyLoss,
)

__all__ = [
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "MCCLoss",
    "MaskedDiceLoss",
    "TverskyLoss",
]

Dice = DiceLoss
dice_ce = DiceCELoss
dice_focal = DiceFocalLoss
generalized_dice = GeneralizedDiceLoss
generalized_dice_focal = GeneralizedDiceFocalLoss
