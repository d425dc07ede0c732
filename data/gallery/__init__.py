"""Rows of pictures with captions, as HTML, as PNG and on a terminal."""
