"""Files of rows that the tests of readers write."""

import gzip
import json


def write(path, text):
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_jsonl(path, *rows):
    return write(path, "\n".join(json.dumps(row) for row in rows))
