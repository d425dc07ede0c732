"""Values of options that the commands offer and the work behind them reads."""

PENULTIMATE = "penultimate"  # the layer that a network's classifier reads
CLASSIFIERS = ("linear", "knn")
MASK_THRESHOLD = 128  # a mask is foreground from this level on
