"""The whole journey on pictures that need no download: `make demo`."""
