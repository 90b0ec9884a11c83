"""RefShapes: a generated referring-segmentation benchmark in the REFER and gRefCOCO file layouts."""
