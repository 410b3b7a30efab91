"""Networks: patches, masks, layers, MAE, i-MAE and the classifier."""
