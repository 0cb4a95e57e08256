"""What updates and teleports share: a base class, the point that they see, the state that they carry."""
