"""Names the fields of structs without any, such as `(1, 2)`, which no form of output could show."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def all_named(kind: "pa.DataType") -> "pa.DataType":
    """The type with the fields of each struct named apart: one that has no name, or another's, by its place from 1.

    >>> import pyarrow as pa
    >>> str(all_named(pa.struct([("", pa.int32()), ("", pa.int32())])))
    'struct<1: int32, 2: int32>'
    """
    import pyarrow as pa

    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        fields = []
        for place, field in enumerate(kind, 1):
            name = field.name if field.name and names.count(field.name) == 1 else str(place)
            fields.append(field.with_name(name).with_type(all_named(field.type)))
        return pa.struct(fields)
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(all_named(kind.key_type)), kind.item_field.with_type(all_named(kind.item_type))
        )
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(all_named(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(all_named(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(all_named(kind.value_type)), kind.list_size)
    return kind


class Renamed:
    """A batch under a schema that differs from its own in names alone; `pyarrow.record_batch` takes it, uncopied."""

    def __init__(self, batch: "pa.RecordBatch", schema: "pa.Schema"):
        self.batch, self.schema = batch, schema

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """The schema and the values, in Arrow's C interface."""
        return self.schema.__arrow_c_schema__(), self.batch.__arrow_c_array__()[1]
