"""Windows over every entity's series, and the scoring part that reads like the drawing."""
