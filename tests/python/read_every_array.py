"""Opens state files with the safetensors package and reads every array.

Checksums are computed here, from the description in docs/state-files.md. Each
argument is a file; what was found in it is printed as JSON, one line for each.
"""

import json
import sys
import zlib

import ml_dtypes  # noqa: F401, teaches numpy what bfloat16 is
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

SIZES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "U64": 8, "U8": 1}


def raw_header(path):
    with open(path, "rb") as file:
        head = file.read(8)
        head += file.read(int.from_bytes(head, "little"))
    header = json.loads(head[8:])
    metadata = header["__metadata__"]
    if int(metadata["sonew.format"]) < 4:
        crc = zlib.crc32(head[:47] + b"00000000" + head[55:])
    else:
        crc = 0
        for name, entry in header.items():
            if name != "__metadata__":
                shape = ",".join(map(str, entry["shape"]))
                crc += zlib.crc32(f"{name}:{entry['dtype']}:{shape}".encode())
        for key, value in metadata.items():
            if key.startswith("sonew.") and key != "sonew.header_crc32":
                crc += zlib.crc32(f"{key}={value}".encode())
    assert crc % 2**32 == int(metadata["sonew.header_crc32"], 16), "checksum of the header"
    return len(head), header


def words(array):
    return [int.from_bytes(array[i : i + 8], "little") for i in range(0, len(array), 8)]


def checksums_of_live_file(found, names, arrays):
    """The checksums of the planes of the current copy, if the file is as it was synced."""
    commit = words(arrays["sonew.live/commit"])
    found["step"], copy = divmod(commit[0] & (1 << 48) - 1, 2)
    assert commit[0] >> 48 == zlib.crc32(commit[0].to_bytes(8, "little")[:6]) & 0xFFFF
    suffix = ["", ".b"][copy]
    found["synced"] = commit[1] == 0
    if not found["synced"]:
        return {}
    settings = arrays["sonew.live/settings" + suffix]
    if found["format"] == 3:
        checksums = arrays["sonew.live/checksums"]
        sealed = commit[2].to_bytes(8, "little") + settings + checksums
        assert commit[2] == commit[0] and zlib.crc32(sealed) == commit[3]
        checksums = words(checksums)
    else:
        records = [words(arrays["sonew.live/synced" + s]) for s in ["", ".b"]]
        record = max(records, key=lambda record: record[0])
        raw = arrays["sonew.live/synced" + ["", ".b"][record[0] % 2]]
        assert record[1] == commit[0] and zlib.crc32(raw[:16] + raw[24:]) == record[2]
        assert raw[32 : 32 + len(settings)] == settings
        checksums = record[4 + len(settings) // 8 :]
    names = [name for name in names if not name.startswith(("sonew.", "__"))]
    names = names[: len(names) // 2]
    return {name + suffix: checksum for name, checksum in zip(names, checksums)}


def read(path):
    start, header = raw_header(path)
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    arrays = {}
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        for name in file.keys():
            entry = header[name]
            begin, end = entry["data_offsets"]
            shape = file.get_slice(name).get_shape()
            assert shape == entry["shape"], name
            array = file.get_tensor(name)
            assert list(array.shape) == shape, name
            assert array.tobytes() == data[begin:end], name
            count = 1
            for dim in shape:
                count *= dim
            assert count * SIZES[entry["dtype"]] == end - begin, name
            arrays[name] = data[begin:end]
            assert name.startswith("sonew.padding/") or (start + begin) % 64 == 0, name

    checksums = {k: int(v, 16) for k, v in json.loads(metadata["sonew.checksums"]).items()}
    found = {"format": int(metadata["sonew.format"]), "arrays": len(arrays)}
    if "sonew.live/commit" in arrays:
        checksums = checksums_of_live_file(found, header, arrays)
    else:
        found["step"] = int(metadata["sonew.step"])
    for name, crc in checksums.items():
        assert zlib.crc32(arrays[name]) == crc, name
    found["verified"] = len(checksums)
    return found


def save_again(path):
    """Reads a file and saves it beside itself, as any program may."""
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    again = path + ".again"
    save_file(load_file(path), again, metadata=metadata)
    return again


if __name__ == "__main__":
    for path in sys.argv[1:]:
        if path == "--save-again":
            continue
        print(json.dumps(read(path)))
        if sys.argv[1] == "--save-again":
            save_again(path)
