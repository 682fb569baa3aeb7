"""What the experiments train on: the data, the models and their losses, one task each."""
