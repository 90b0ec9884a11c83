"""Multimodal language models that write segmentation masks as text: data, training, evaluation."""

__version__ = "0.1.0"
