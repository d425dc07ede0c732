"""Which versions of which software made a file."""

import importlib.metadata
import platform

import cv2
import h5py
import PIL

_DISTRIBUTIONS = ("dilo", "numpy", "scipy", "numba")


def software_versions() -> dict[str, str]:
    """Return the versions that a mask may depend on, by name."""
    versions = {
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a folder of sources
            versions[name] = "unknown"
    return versions
