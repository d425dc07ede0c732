"""Where an Arrow file, as `save_to_disk` writes it, has its values: in it as they are."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from data.images.archives import Block, Place


class ArrowFile:
    """An Arrow file and its schema. name : of it, in the dataset."""

    def __init__(self, path: str, name: str) -> None:
        self._bytes, self._name = pa.memory_map(path).read_buffer(), name
        if self._bytes[:6].to_pybytes() == b"ARROW1":
            file = pa.ipc.open_file(self._bytes)
            self._batches = map(file.get_batch, range(file.num_record_batches))
        else:
            self._batches = file = pa.ipc.open_stream(self._bytes)
        self.schema = file.schema

    def batches(self, columns: list[str], leaf: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows, of these columns. leaf : the values that `places` will be asked for."""
        for batch in self._batches:
            batch.validate()
            yield batch.select(columns)

    def places(self, values: pa.Array) -> list[Place | None]:
        """Return where the values of a batch lie; None for null."""
        _, offsets, data = values.buffers()
        width = np.int64 if pa.types.is_large_binary(values.type) else np.int32
        ends = np.frombuffer(offsets, width)[values.offset : values.offset + len(values) + 1]
        start, size = (data.address - self._bytes.address, data.size) if data else (0, 0)
        if not 0 <= start <= self._bytes.size - size:
            raise ValueError("it is compressed: write it without")
        if ends[0] < 0 or ends[-1] > size or (np.diff(ends) < 0).any():
            raise ValueError("values that lie outside of it")
        starts, sizes = (start + ends[:-1]).tolist(), np.diff(ends).tolist()
        there, block = values.is_valid().to_pylist(), Block(self._name)
        rows = zip(there, starts, sizes, strict=True)
        return [Place(at, size, block) if valid else None for valid, at, size in rows]
