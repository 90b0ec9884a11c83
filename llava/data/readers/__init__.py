"""Readers of the field's datasets, one file per family; each yields `Sample`."""
