"""Requests per second of `promptfed serve` with 1, 8 and 32 clients at once, against a server without batches.

    python scripts/bench_serve.py BUNDLE IMAGE... [--requests 96] [--max-batch 16] [--out served.json]

Each client sends one image a request and waits for the answer. Both servers run in this process, one after the other,
with the same model and bundle; their answers are compared (classes equal, probabilities to 1e-4).
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from promptfed.serving.limits import ServeLimits
from promptfed.serving.server import serving
from promptfed.serving.service import Service

CLIENTS = (1, 8, 32)


def form_of(image: bytes) -> tuple[bytes, str]:
    """A form with one file, and its content type."""
    mark = secrets.token_hex(16)
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="image"\r\n\r\n'
    return head.encode() + image + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def measure(address: str, images: list[bytes], clients: int, requests: int) -> tuple[dict[str, float], list[Any]]:
    """Figures of ``requests`` requests by ``clients`` at once, and the answers in their order."""
    host = address.removeprefix("http://")
    waits: list[float] = [0.0] * requests
    answers: list[Any] = [None] * requests

    def client(first: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=120)
        for number in range(first, requests, clients):
            body, kind = form_of(images[number % len(images)])
            start = time.perf_counter()
            connection.request("POST", "/v1/classify", body, {"content-type": kind})
            reply = connection.getresponse()
            content = json.loads(reply.read())
            waits[number] = time.perf_counter() - start
            assert reply.status == 200, content
            answers[number] = content["results"][0]["ranked"]
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    seconds = time.perf_counter() - start
    figures = {
        "requests_per_second": requests / seconds,
        "median_ms": 1000 * statistics.median(waits),
        "p95_ms": 1000 * sorted(waits)[int(0.95 * (requests - 1))],
    }
    return figures, answers


def largest_difference(some: list[Any], others: list[Any]) -> float:
    """The largest difference of a probability; the classes and their order must agree, but for ties within 1e-4."""
    largest = 0.0
    for one, other in zip(some, others, strict=True):
        shares = {row["class"]: row["probability"] for row in other}
        assert shares.keys() == {row["class"] for row in one}, (one, other)
        largest = max(largest, *(abs(row["probability"] - shares[row["class"]]) for row in one))
    assert largest < 1e-4, largest
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images = [path.read_bytes() for path in options.images]
    rows: dict[str, Any] = {}
    answers: dict[int, list[Any]] = {}
    for batch in (1, options.max_batch):
        service = Service.of([options.bundle], ServeLimits(max_batch=batch), device=options.device)
        with serving(service) as server:
            measure(server.address, images, 4, 16)  # warm
            for clients in CLIENTS:
                before = service.batcher.batches
                figures, said = measure(server.address, images, clients, options.requests)
                figures["examples_per_batch"] = options.requests / (service.batcher.batches - before)
                rows[f"batch {batch}, {clients} clients"] = figures
                answers.setdefault(clients, said)
                figures["difference"] = largest_difference(answers[clients], said)
                print(
                    f"max-batch {batch:>2}, {clients:>2} clients: {figures['requests_per_second']:7.1f} requests/s, "
                    f"median {figures['median_ms']:7.1f} ms, 95 % {figures['p95_ms']:7.1f} ms, "
                    f"{figures['examples_per_batch']:4.1f} a batch, largest difference {figures['difference']:.1e}",
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
