"""Inference, scoring, reports."""
