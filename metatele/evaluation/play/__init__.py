"""Playing contestants: their curves, their costs, what their teleports do; finished pieces on disk."""
