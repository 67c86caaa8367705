"""What frozen features are worth: weighted kNN, and linear evaluation with or without augmentation."""
