"""The journal as a data set of Parquet files that Hugging Face `datasets` loads: `load_dataset(DIR, "pictures")`.

`requests/` has a row for each request, `pictures/` one for each labelled picture that was kept: image, label, what the
cascade said. Needs pyarrow (extra `hub`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from miner.journal_views import EXPORT_COLUMNS, Example, Views
from models.installing import pip_install_extra

REQUESTS_A_GROUP = 10_000
PICTURES_A_GROUP = 200
CARD = """---
configs:
- config_name: pictures
  data_files: pictures/*.parquet
  default: true
- config_name: requests
  data_files: requests/*.parquet
---

# Street pictures answered by a miner

`pictures`: labelled pictures (label 1: road work, 0: none; `label_source`: testnet, human or consensus) and the answer
that was given. `requests`: every request, without pictures. Written by `./run_miner.sh journal export`.
"""


class ExportError(Exception):
    """The export cannot be made. The message says what to do."""


def export(views: Views, directory: Path, since: float = 0.0) -> tuple[int, int]:
    """Write both tables below `directory` (made anew). Gives the number of requests and of pictures.

    Raises ExportError without pyarrow.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ExportError(f"export writes Parquet, which needs pyarrow: {pip_install_extra('hub')}") from error
    (directory / "requests").mkdir(parents=True, exist_ok=True)
    (directory / "pictures").mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_text(CARD, encoding="utf-8")
    text = {"sha256", "caller", "version", "source", "stop", "fault", "opinions", "label_source"}
    whole = {"width", "height", "degraded", "label"}
    kinds = [(n, pa.string() if n in text else pa.int64() if n in whole else pa.float64()) for n in EXPORT_COLUMNS]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", image), ("label", pa.int64()), ("sha256", pa.string()), ("label_source", pa.string())]
    columns += [("labelled", pa.float64()), ("probability", pa.float64()), ("opinions", pa.string())]
    pictures = pa.schema(columns, metadata={"huggingface": json.dumps(_features(columns))})
    requests = _write(directory / "requests/all.parquet", pa.schema(kinds), views.rows(since), REQUESTS_A_GROUP)
    rows = _pictures(views, views.labelled(since))
    return requests, _write(directory / "pictures/labelled.parquet", pictures, rows, PICTURES_A_GROUP)


def _features(columns: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    special = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["clear", "roadwork"]}}
    plain = {"double": "float64"}
    features = {n: special.get(n) or {"_type": "Value", "dtype": plain.get(str(k), str(k))} for n, k in columns}
    return {"info": {"features": features}}


def _pictures(views: Views, examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
    for example in examples:
        record = example.record
        path = views.picture(record.sha256)
        if path is not None:
            yield {
                "image": {"bytes": path.read_bytes(), "path": path.name},
                "label": example.label,
                "sha256": record.sha256,
                "label_source": example.source,
                "labelled": example.at,
                "probability": record.verdict.probability,
                "opinions": json.dumps({opinion.model: round(opinion.logit, 4) for opinion in record.verdict.opinions}),
            }


def _write(path: Path, schema: Any, rows: Iterator[dict[str, Any]], group: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as sink:
        while chunk := list(islice(rows, group)):
            sink.write_table(pa.Table.from_pylist(chunk, schema=schema))
            total += len(chunk)
    return total
