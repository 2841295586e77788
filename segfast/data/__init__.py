"""Data sets for training: folders of images and masks, and synthetic images.

Needs the extra ``train`` (Pillow, torchvision).
"""
