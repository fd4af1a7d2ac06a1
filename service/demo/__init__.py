"""`tidewatch demo`: the whole path on this machine, with a real fault and real receivers."""
