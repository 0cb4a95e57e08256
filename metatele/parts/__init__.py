"""What updates and teleports have in common: what they see, what they remember, what they are made of."""
