"""Mask to text and back: numpy only."""
