"""Versions are recorded."""

import h5py
import numpy as np

from data.software import software_versions


def test_versions():
    versions = software_versions()
    assert versions["numpy"] == np.__version__ and versions["h5py"] == h5py.__version__
    assert all(isinstance(version, str) and version for version in versions.values())
    assert {"dilo", "python", "opencv", "pillow", "hdf5"} <= set(versions)
