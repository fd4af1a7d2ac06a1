"""From a transition to a message that was sent: routing, grouping, timing, recording, delivery."""
