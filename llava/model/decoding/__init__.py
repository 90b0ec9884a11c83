"""Decoding that knows what a mask text looks like: constrained, and in a fraction of the passes."""
