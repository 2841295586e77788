"""Data sets for training: folders of images and masks, and synthetic images.

``segfast.data.folder.LAYOUTS`` says which layouts are understood, and
:mod:`segfast.data.class_options` where the classes come from.

Needs the extra ``train`` (Pillow, torchvision).
"""
