"""Which rows end a window early, and how much each metric usually moves."""
