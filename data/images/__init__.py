"""Images: listing a folder, decoding, cropping, labels."""
