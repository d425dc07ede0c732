"""Views: drawn, loaded, augmented."""
