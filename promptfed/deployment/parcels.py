"""Small messages travel as one record of bytes.

Flower moves each record, array and piece of an array by a call of its own, four times between server and site, and each
call costs the SuperLink some hundredths of a second of work. What this file imports stays light.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Wire

PARCEL, BYTES = "parcel", "bytes"
LARGEST = 1_000_000
"""Bytes of a parcel. Flower cuts the arrays of larger messages into pieces, and sends what several share once."""


def wrapped(content: RecordDict) -> RecordDict:
    """Return what is sent for ``content``: itself if it is large."""
    parcel = bytes(recorddict_to_proto(content).SerializeToString())
    return RecordDict({PARCEL: ConfigRecord({BYTES: parcel})}) if len(parcel) <= LARGEST else content


def unwrapped(content: RecordDict) -> RecordDict:
    """Return what was wrapped. A parcel that cannot be read is an empty message, which is refused as such."""
    record = content.get(PARCEL)
    if not isinstance(record, ConfigRecord):
        return content
    parcel = record.get(BYTES)
    if len(content) != 1 or not isinstance(parcel, bytes) or len(parcel) > LARGEST:
        return RecordDict({})
    try:
        return recorddict_from_proto(Wire.FromString(parcel))
    except Exception:  # protobuf and Flower raise many kinds for bytes that are no message
        return RecordDict({})
