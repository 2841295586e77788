"""Other libraries' losses, with their names, arguments and numbers, from one pass over the logits.

Change the import, keep the rest::

    from segfast.compat import smp  # was: import segmentation_models_pytorch as smp

    loss = smp.DiceLoss("multiclass", ignore_index=255)

========== =====================================================================================
``smp``    JaccardLoss, DiceLoss, TverskyLoss, FocalLoss, LovaszLoss, MCCLoss,
           SoftCrossEntropyLoss, SoftBCEWithLogitsLoss
``monai``  DiceLoss, MaskedDiceLoss, TverskyLoss, GeneralizedDiceLoss, MCCLoss, FocalLoss,
           DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss
``nnunet`` SoftDiceLoss, MemoryEfficientSoftDiceLoss, DC_and_CE_loss, DC_and_BCE_loss,
           DC_and_topk_loss, TopKLoss, RobustCrossEntropyLoss
``kornia`` DiceLoss, TverskyLoss, FocalLoss, BinaryFocalLossWithLogits, LovaszHingeLoss,
           LovaszSoftmaxLoss, and their functions
``fastai`` DiceLoss
``mmseg``  DiceLoss, TverskyLoss
``keras``  JaccardLoss, DiceLoss, BinaryCELoss, CategoricalCELoss, BinaryFocalLoss,
           CategoricalFocalLoss, and their sums
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
fractions as labels     cut to whole numbers           ValueError
negative weights        a number (MONAI refuses them)  ValueError
no pixel, no sample     NaN, where a mean is taken     0, or what smoothing gives
softmax of one channel  a constant with gradient 0     ValueError (MONAI skips it, and so does
                                                       ``monai``)
sums                    float32 for any input, in      float64 sums of float32 terms (of float64
                        nnU-Net, MONAI's focal loss,   ones for float64 logits)
                        generalised Dice's weights
                        and one-hot labels
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
focal losses of monai,  soft targets: other factors    p (1 - t) + (1 - p) t, to the gamma
kornia and keras
monai.MaskedDiceLoss    masks of fractions weigh       ValueError
monai, ignored class    of fractions in a target for   ignored where the value is 1
                        each class: weighs by them
nnunet.TopKLoss         NaN where k per cent are       at least one pixel
                        less than a pixel
nnunet, ``ddp``         fails without process group    sums what is there
mmseg, ignore_index     ignored pixels stay in the     they count in nothing; with
                        denominator, with a gradient   ``strict=True`` mmseg's number
keras.BinaryFocalLoss   any ``alpha``                  ``alpha`` below 1
keras                   called with (target,           called with (logits, target)
                        probabilities)
keras, sums             of any losses                  of one activation and at most one
                                                       cross-entropy, else ValueError
======================= ============================== ========================================

Probabilities instead of logits (smp's ``from_logits=False``, MONAI's default, mmseg's
``activate=False``) leave no softmax to fuse: their sums are made in plain PyTorch. So are losses of
single pixels (``reduction="none"`` of pixel losses), and those that rank them.
"""

from segfast.compat import fastai, keras, kornia, mmseg, monai, nnunet, smp

__all__ = ["fastai", "keras", "kornia", "mmseg", "monai", "nnunet", "smp"]
