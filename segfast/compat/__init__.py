"""Other libraries' losses, with their names, arguments and numbers, from one pass over the logits.

Change the import, keep the rest::

    from segfast.compat import smp  # was: import segmentation_models_pytorch as smp

    loss = smp.DiceLoss("multiclass", ignore_index=255)

========== =====================================================================================
``smp``    JaccardLoss, DiceLoss, TverskyLoss, FocalLoss, LovaszLoss, MCCLoss,
           SoftCrossEntropyLoss, SoftBCEWithLogitsLoss
``monai``  DiceLoss, TverskyLoss, GeneralizedDiceLoss, DiceCELoss, DiceFocalLoss
``nnunet`` SoftDiceLoss, MemoryEfficientSoftDiceLoss, DC_and_CE_loss, DC_and_BCE_loss
``kornia`` DiceLoss, TverskyLoss, dice_loss, tversky_loss
``fastai`` DiceLoss
``mmseg``  DiceLoss
``keras``  JaccardLoss, DiceLoss, BinaryCELoss, CategoricalCELoss, and their sums
========== =====================================================================================

Losses and gradients are those of the originals, which the tests run beside them, wherever these are
well defined, and that includes what surprises: a class without a pixel counts with loss 0 in smp's
mean and with loss 1 in MONAI's. What :mod:`segfast.losses` does by default is rather to leave it
out. The differences, all of them:

======================= ============================== ========================================
where                   the original                   here
======================= ============================== ========================================
half-precision logits   sums overflow beyond 65504:    float32 arithmetic, and a float32 loss
                        NaN, or a loss that saturates
labels that are no      fail in a scatter or one-hot,  IndexError that names them
class, nor ignored      or count as no class (fastai,
                        mmseg)
softmax of one channel  a constant with gradient 0     ValueError (MONAI skips it, and so does
                                                       ``monai``)
sums                    float32 for any input, in      float64 sums of float32 terms (of float64
                        nnU-Net, MONAI's focal loss    ones for float64 logits)
                        and generalised Dice's
                        weights
targets outside [0, 1]  a number                       IndexError
smp.FocalLoss           NaN of an all-ignored batch    0
                        fails with ignore_index in     the mean over the terms that count
                        mode "multilabel"
                        soft targets: the factor is    p (1 - t) + (1 - p) t, to the gamma;
                        (1 - exp(-bce))^gamma          with ``strict=True`` smp's
smp, class_weights      NaN where they sum to 0        0
smp.TverskyLoss         NaN gradient of a loss of 0    0
                        with gamma < 1
smp.LovaszLoss          all ignored: an empty tensor   0
                        fails on float64               float64
smp.SoftCrossEntropy-   fails without smooth_factor    0 stands for None
Loss
monai.DiceFocalLoss     soft targets: another focal    p (1 - t) + (1 - p) t, to the gamma
                        factor
monai, ignored class    of fractions in a target for   ignored where the value is 1
                        each class: weighs by them
nnunet, ``ddp``         fails without process group    sums what is there
mmseg, ignore_index     ignored pixels stay in the     they count in nothing; with
                        denominator, with a gradient   ``strict=True`` mmseg's number
keras                   called with (target,           called with (logits, target)
                        probabilities)
======================= ============================== ========================================

Probabilities instead of logits (smp's ``from_logits=False``, MONAI's default, mmseg's
``activate=False``) leave no softmax to fuse: their sums are made in plain PyTorch. So are losses of
single pixels (``reduction="none"`` of pixel losses).
"""

from segfast.compat import fastai, keras, kornia, mmseg, monai, nnunet, smp

__all__ = ["fastai", "keras", "kornia", "mmseg", "monai", "nnunet", "smp"]
