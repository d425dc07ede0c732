"""Scripts that print tables: what, how measured, ratio to a peer or to the floor."""
