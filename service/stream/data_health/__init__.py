"""What the scoring part sees of the data and reports: silent entities, stuck metrics."""
