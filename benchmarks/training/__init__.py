"""Throughput from JPEG to gradient: each part alone, and the whole."""
