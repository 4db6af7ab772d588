"""Draws rows of the residual stream from disk in batches whose order follows from a seed and a step alone.

No state is kept between batches, so a resumed run draws what the interrupted one would have drawn.
"""

import hashlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.training.scaled_rows import Rows, ScaledRows

RowNumbers = npt.NDArray[np.int64]
"""Which rows, [m]."""

BUFFER_ROWS = 1 << 17
"""Rows held in memory and mixed: 64 MB at d 256."""
BLOCK = 64
"""Neighbouring rows that are read in one go: whole pages, even of a file that does not fit in memory."""
SAMPLE = 1 << 14


class MappedFile(NamedTuple):
    """Where rows stand on disk, so that another process can map the same."""

    path: str
    dtype: str
    """NumPy's, with the order of the bytes: `<f2`."""
    offset: int
    """Byte at which the first row begins."""
    shape: tuple[int, ...]
    exponents: tuple[Any, ...] | None = None
    """Where the rows' exponents stand, if they have any, in the same words."""

    @classmethod
    def of(cls, rows: Rows) -> "MappedFile":
        """Of a memory map, or whole rows of one that follow each other. Raises InputError for anything else."""
        if isinstance(rows, ScaledRows):
            return cls.of(rows.halves)._replace(exponents=cls._of(rows.exponents))
        return cls._of(rows)

    @classmethod
    def _of(cls, rows: npt.NDArray[Any]) -> "MappedFile":
        if getattr(rows, "filename", None) is None:
            raise InputError("rows that lie in memory cannot be shared with other processes: map a file")
        whole: npt.NDArray[np.generic] = rows
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.mode == "c" or not rows.flags.c_contiguous:
            raise InputError(
                f"rows of {getattr(rows, 'filename', None)} are not as they stand in the file (a column or every other "
                "row of it, in Fortran's order, or mapped with mode 'c'): other processes cannot map them; write them "
                "to a file of their own"
            )
        # A slice keeps the offset of what it was cut from: only its address says where it begins.
        offset = whole.offset + rows.ctypes.data - whole.ctypes.data
        return cls(str(whole.filename), rows.dtype.str, offset, rows.shape)

    def open(self) -> Rows:
        """The rows, mapped to be read."""
        rows = np.memmap(self.path, self.dtype, "r", self.offset, tuple(self.shape))
        if self.exponents is None:
            return rows
        path, dtype, offset, shape = self.exponents[:4]
        return ScaledRows(rows, np.memmap(path, dtype, "r", offset, tuple(shape)))


def check_rows(rows: Rows, d_in: int, batch: int) -> None:
    """Raises InputError if `rows` is not [n, d_in] of floats with at least one batch."""
    if rows.ndim != 2 or rows.shape[1] != d_in or not np.issubdtype(rows.dtype, np.floating):
        raise InputError(f"rows have shape {rows.shape} and type {rows.dtype}, but must be floats [n, {d_in}]")
    if len(rows) < batch:
        raise InputError(f"{len(rows)} rows do not fill one batch of {batch}: harvest more text, or lower the batch")


def check_finite(x: Tensor, numbers: range | RowNumbers) -> None:
    """Raises InputError naming the first row of `x` [n, d] that holds NaN or infinity; `numbers` [n] are its rows."""
    bad = torch.nonzero(~x.isfinite().all(1)).flatten()
    if len(bad):
        raise InputError(
            f"row {numbers[int(bad[0])]} of the activations holds NaN or infinity: harvest them again, and if the "
            f"model overflows in half precision, scale its activations down"
        )


def as_tensor(rows: Rows | npt.NDArray[np.float32]) -> Tensor:
    """The rows as a new float32 tensor."""
    return torch.from_numpy(np.asarray(rows, dtype=np.float32, copy=True))


def sample_rows(rows: Rows, subset: RowNumbers | None = None) -> Tensor:
    """Up to SAMPLE rows spread evenly over the file or the subset, float32. Raises InputError if one is not finite."""
    length = len(rows) if subset is None else len(subset)
    at = np.linspace(0, length - 1, min(SAMPLE, length)).astype(np.int64)
    at = at if subset is None else subset[at]
    sample = as_tensor(rows[at])
    check_finite(sample, at)
    return sample


def fingerprint(rows: Rows) -> str:
    """A digest of the shape and of 64 rows spread over the file: tells one set of rows from another."""
    at = np.linspace(0, len(rows) - 1, 64).astype(np.int64)
    return hashlib.blake2b(repr(rows.shape).encode() + rows[at].tobytes(), digest_size=16).hexdigest()


class RowSampler:
    """Every epoch is a permutation: of blocks over the whole file, then of the rows of a buffer of blocks."""

    def __init__(self, rows: Rows, batch: int, seed: int, *, subset: RowNumbers | None = None) -> None:
        """`subset` [m], ascending, draws from those rows alone."""
        self._rows, self._batch, self._seed, self._subset = rows, batch, seed, subset
        self._length = len(rows) if subset is None else len(subset)
        if self._length < batch:
            raise InputError(f"{self._length} rows do not fill one batch of {batch}: add text, or lower the batch")
        whole = self._length // BLOCK * BLOCK
        self._block = BLOCK if self._length >= BUFFER_ROWS and whole >= batch else 1
        usable = self._length // self._block * self._block
        self._batches = usable // batch
        # Whole batches per buffer, so that no batch spans two.
        self._buffered = max(BUFFER_ROWS // batch, 1)
        self._place: tuple[int, int] | None = None
        self._numbers = self._mixed = np.empty(0, np.int64)
        self._buffer: npt.NDArray[Any] = np.empty((0, rows.shape[1]), np.float16)

    def batch(self, step: int) -> Tensor:
        """The rows of a step, [batch, d] as on disk. Rows that fill no whole batch change from epoch to epoch."""
        epoch, at = divmod(step, self._batches)
        place = (epoch, at // self._buffered)
        if place != self._place:
            self._fill(*place)
        return torch.from_numpy(self._buffer[self._mixed[self._slice(step)]])

    def row_numbers(self, step: int) -> RowNumbers:
        """Where the rows of the step that was drawn last stand in the file, [batch]."""
        return self._numbers[self._mixed[self._slice(step)]]

    def _slice(self, step: int) -> slice:
        start = step % self._batches % self._buffered * self._batch
        return slice(start, start + self._batch)

    def _fill(self, epoch: int, part: int) -> None:
        """Read a buffer: rows in the order of the file, since neighbours on disk are fast, then mixed in memory."""
        order = np.random.default_rng([self._seed, epoch])
        blocks = order.permutation(self._length // self._block)
        # A shifted start gives the rows behind the last whole block their turn in another epoch.
        shift = int(order.integers(self._length % self._block + 1))
        start = part * self._buffered * self._batch
        stop = min(start + self._buffered * self._batch, self._batches * self._batch)
        first = start // self._block
        chosen = blocks[first : -(-stop // self._block)] * self._block + shift
        numbers = (chosen[:, None] + np.arange(self._block)).ravel()
        # A buffer may begin inside a block, whose other rows the buffer before had.
        self._numbers = np.sort(numbers[start - first * self._block :][: stop - start])
        if self._subset is not None:
            self._numbers = self._subset[self._numbers]
        self._buffer = np.asarray(self._rows[self._numbers])
        self._mixed = np.random.default_rng([self._seed, epoch, part + 1]).permutation(len(self._numbers))
        self._place = (epoch, part)


class Sampler(Protocol):
    """Draws batches; what it draws at a step follows from seed and step alone."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(x [batch, d_in], target [batch, d_out]) of a step, of any float type; one tensor twice where they are one.

        In half precision, as rows stand on disk, they take half the time to a GPU.
        """
        ...

    def row_numbers(self, step: int) -> RowNumbers:
        """What identifies the rows of the step that was drawn last, [batch]."""
        ...


@runtime_checkable
class RowSource(Protocol):
    """Where training rows come from: a cache on disk, or the model itself."""

    @property
    def digest(self) -> str:
        """Tells one set of rows from another."""
        ...

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def widths(self) -> tuple[int, int]:
        """(d_in, d_out) of a row and its target."""
        ...

    def check(self, d_in: int, d_out: int, batch: int) -> None:
        """Raises InputError if the rows do not fit an SAE of these widths, or fill no batch."""
        ...

    def sample(self) -> tuple[Tensor, Tensor]:
        """Rows spread evenly over all, and their targets. Raises InputError if one is not finite."""
        ...

    def sampler(self, batch: int, seed: int) -> Sampler:
        """Draws batches of `batch` rows."""
        ...


class CachedRows:
    """Rows of one hookpoint on disk and, for a transcoder, those of another; all of them, or a subset."""

    def __init__(self, rows: Rows, target: Rows | None = None, *, subset: RowNumbers | None = None) -> None:
        """`rows` [n, d_in], `target` [n, d_out] of the same tokens, `subset` [m] ascending row numbers."""
        self._rows, self._target, self.subset = rows, target, subset

    @property
    def rows(self) -> int:
        """How many rows there are, those of the subset alone if there is one."""
        return len(self._rows) if self.subset is None else len(self.subset)

    @property
    def widths(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        return self._rows.shape[1], (self._rows if self._target is None else self._target).shape[1]

    def files(self) -> list[MappedFile]:
        """The memory-mapped files, for another process. Raises InputError for rows that cannot be mapped there."""
        return [MappedFile.of(rows) for rows in (self._rows, self._target) if rows is not None]

    @property
    def digest(self) -> str:
        """Of shapes, of 64 rows spread over each file, and of the subset."""
        said = [fingerprint(rows) for rows in (self._rows, self._target) if rows is not None]
        if self.subset is not None:
            said.append(hashlib.blake2b(self.subset.tobytes(), digest_size=16).hexdigest())
        return "+".join(said)

    def check(self, d_in: int, d_out: int, batch: int) -> None:
        """Raises InputError if the rows do not fit an SAE of these widths, or fill no batch."""
        check_rows(self._rows, d_in, batch)
        if (self._target is None) and d_out != d_in:
            raise InputError(f"an SAE that writes rows of width {d_out} from width {d_in} needs a target hookpoint")
        if self._target is not None:
            check_rows(self._target, d_out, batch)
            if len(self._target) != len(self._rows):
                raise InputError(f"{len(self._rows)} rows to read and {len(self._target)} to reconstruct do not match")
        if self.subset is not None and len(self.subset) < batch:
            raise InputError(f"{len(self.subset)} rows do not fill one batch of {batch}: select more text")

    def sample(self) -> tuple[Tensor, Tensor]:
        """Up to SAMPLE rows spread evenly, and their targets, float32."""
        x = sample_rows(self._rows, self.subset)
        return x, x if self._target is None else sample_rows(self._target, self.subset)

    def sampler(self, batch: int, seed: int) -> Sampler:
        """Draws batches of `batch` rows."""
        return _Pairs(
            RowSampler(self._rows, batch, seed, subset=self.subset),
            None if self._target is None else RowSampler(self._target, batch, seed, subset=self.subset),
        )


class _Pairs:
    """Two samplers that draw the same rows of two files."""

    def __init__(self, x: RowSampler, target: RowSampler | None) -> None:
        self._x, self._target = x, target

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x = self._x.batch(step)
        return x, x if self._target is None else self._target.batch(step)

    def row_numbers(self, step: int) -> RowNumbers:
        return self._x.row_numbers(step)
