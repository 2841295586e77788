"""Training, scoring and predicting on folders of images. Needs the extra ``train``."""
