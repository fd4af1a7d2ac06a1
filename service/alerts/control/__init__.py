"""Commands of operators (acknowledge, silence, mark), the topic they lie on, and what they mute."""
