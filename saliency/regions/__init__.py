"""Superpixels, their graph, and what RBD, MC and GS share."""
