"""What an evaluation says: measures, claims, verdicts."""
