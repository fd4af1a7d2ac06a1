"""What developers run by hand, beside the benches."""
