"""The shipped meta-trained optimizers, one folder each."""
