"""``tidewatch demo``: the service at work on this machine, with a real fault and real receivers."""
