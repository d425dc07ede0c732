"""The mask store: HDF5 shards, written whole, read at random."""
