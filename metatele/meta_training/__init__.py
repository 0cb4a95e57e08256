"""Meta-training: learn an inner optimizer from trajectories on a task family."""
