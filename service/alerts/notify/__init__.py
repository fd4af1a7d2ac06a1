"""From a transition to a message that is due: routing, grouping, recording, sending."""
