"""Who takes part in an evaluation."""
