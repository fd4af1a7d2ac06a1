"""What must be written together with the offsets."""
