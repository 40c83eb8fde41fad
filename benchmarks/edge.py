"""The stock axon of the installed SDK and this project's, in one run: same forward, same requests, over loopback.

    python -m benchmarks.edge [--requests 2000] [--clients 2] [--rounds 5] [--json]

Each server is a process of its own; each client is a process that signs its requests first and then sends them over
eight connections, as fast as answers come, without a dendrite. CPU is the server process's own (user and system, as the
scheduler counts it); "per core" is what one core would do if it did nothing else: requests / CPU seconds. Each figure
is that of the least disturbed of some rounds: whatever else the machine does can only add to it (caches, switches), for
both servers alike. Last comes what one request costs our server between its bytes and those of the answer, without
sockets and clients: what two versions are compared by, alternately, on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import time
import typing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from bittensor_wallet import Keypair

from miner.axon import Axon, Server, verify_signature
from miner.commands.mock import reserved_ports
from miner.gate import Gate, Rate, Rules
from miner.metagraph import Neuron, Snapshot
from miner.replay_store import ReplayStore
from tests.edge.signing import Dendrite

MINER, VALIDATOR, STRANGER = (Keypair.create_from_uri(f"//edge/{name}") for name in ("miner", "validator", "stranger"))
KINDS = ("valid", "forged signature", "unregistered", "unsigned")
EXPECTED = {
    "valid": 200,
    "forged signature": 401,
    "unregistered": 403,
    "unsigned": 401,
}  # the status each kind must get
CONNECTIONS = 8  # of each client process


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. rps: by the clock. per_core: by the server's CPU. Times in milliseconds."""

    server: str
    kind: str
    requests: int
    statuses: dict[int, int]
    rps: float
    per_core: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float


# The servers.


def serve_stock(port: int, ready: Connection) -> None:
    """A stock axon with the same rules: the caller must be known, and the forward answers at once."""
    import bittensor

    from miner.protocol import ImageSynapse

    class Wallet:
        hotkey = MINER
        coldkeypub = MINER

    async def forward(synapse: ImageSynapse) -> ImageSynapse:
        synapse.prediction = 0.75
        return synapse

    def blacklist(synapse: ImageSynapse) -> typing.Tuple[bool, str]:  # noqa: UP006  (what the SDK compares with)
        return synapse.dendrite.hotkey != VALIDATOR.ss58_address, "Unrecognized hotkey"

    forward.__annotations__ = {"synapse": ImageSynapse, "return": ImageSynapse}
    blacklist.__annotations__ = {"synapse": ImageSynapse, "return": typing.Tuple[bool, str]}  # noqa: UP006
    bittensor.logging.off()
    axon = bittensor.Axon(wallet=Wallet(), port=port, ip="127.0.0.1", external_ip="127.0.0.1", external_port=port)
    axon.attach(forward_fn=forward, blacklist_fn=blacklist).start()
    while not axon.fast_server.started:
        time.sleep(0.01)
    ready.send(os.getpid())
    ready.recv()


@asynccontextmanager
async def our_server(port: int) -> AsyncIterator[Server]:
    """This project's axon, as the miner wires it, with a replay store on disk."""

    async def answer(image: str, seconds: float, caller: str, label: int) -> float:
        return 0.75

    hotkey = VALIDATOR.ss58_address
    snapshot = Snapshot(72, 1, 1.0, {hotkey: Neuron(1, hotkey, 1000.0, True)})
    rules = Rules(validator_rate=Rate(per_second=1e6, burst=1e6))  # the budget is not what is measured
    with tempfile.TemporaryDirectory() as state:
        replay = ReplayStore(Path(state) / "replay")
        gate = Gate(MINER.ss58_address, lambda: snapshot, verify_signature, replay, rules)
        server = Server(Axon(gate, answer, answer), "127.0.0.1", port)
        await server.start()
        yield server
        await server.stop()


def serve_ours(port: int, ready: Connection) -> None:
    """Ours, until told to stop."""

    async def main() -> None:
        async with our_server(port):
            ready.send(os.getpid())
            await asyncio.to_thread(ready.recv)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# The clients.


def requests_of(kind: str, count: int, image: str, seed: int) -> list[bytes]:
    """Ready-made requests of one client: its own uuid, growing nonces, each signed."""
    uuid = f"00000000-0000-0000-0000-{seed:012d}"
    dendrite = Dendrite(STRANGER if kind == "unregistered" else VALIDATOR, MINER.ss58_address, uuid=uuid)
    began = time.time_ns()
    found = []
    for number in range(count):
        request = dendrite.request(image, nonce=began + number * 1000)
        signature = request.headers["bt_header_dendrite_signature"]
        if kind == "forged signature":
            middle = random.Random(number).randrange(16**8)
            request.headers["bt_header_dendrite_signature"] = f"{signature[:40]}{middle:08x}{signature[48:]}"
        if kind == "unsigned":
            del request.headers["bt_header_dendrite_signature"]
        found.append(request.bytes())
    return found


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_answer(connection: socket.socket) -> tuple[int, bool]:
    """(status, whether the connection goes on) of one answer, read to its end."""
    data = connection.recv(1 << 18)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += connection.recv(1 << 18)
    head = data[:end].lower()
    length = int(head[head.index(b"content-length: ") + 16 :].split(b"\r\n", 1)[0])
    missing = end + 4 + length - len(data)
    while missing > 0:
        missing -= len(connection.recv(1 << 18))
    return int(data[9:12]), b"connection: close" not in head


def ask(port: int, kind: str, count: int, image: str, seed: int, start: typing.Any, out: Connection) -> None:
    """One client process: sends a request on each of its connections, reads the answers, and so on.

    Reports (status, seconds) of each request.
    """
    payloads = requests_of(kind, count, image, seed)
    results: list[tuple[int, float]] = []
    out.send("signed")
    start.wait()
    connections = [connect(port) for _ in range(CONNECTIONS)]
    for at in range(0, len(payloads), CONNECTIONS):
        began = []
        for connection, payload in zip(connections, payloads[at : at + CONNECTIONS], strict=False):
            began.append(time.perf_counter())
            connection.sendall(payload)
        for number, sent in enumerate(began):
            status, goes_on = read_answer(connections[number])
            results.append((status, time.perf_counter() - sent))
            if not goes_on:
                connections[number].close()
                connections[number] = connect(port)
    out.send(results)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads that a process has, as the scheduler counts it in nanoseconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def measure(server: str, port: int, pid: int, kind: str, count: int, clients: int, image: str) -> Row:
    """Send `count` requests from `clients` processes to a running server."""
    start = multiprocessing.Event()
    pipes, processes = [], []
    for number in range(clients):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        seed = KINDS.index(kind) * 1000 + number
        processes.append(
            multiprocessing.Process(target=ask, args=(port, kind, count // clients, image, seed, start, theirs))
        )
        pipes.append(ours)
        processes[-1].start()
    for pipe in pipes:
        pipe.recv()  # signed
    cpu, began = cpu_seconds(pid), time.perf_counter()
    start.set()
    results = [result for pipe in pipes for result in pipe.recv()]
    wall, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    for process in processes:
        process.join()
    times = sorted(seconds * 1e3 for _, seconds in results)
    statuses = {status: sum(1 for found, _ in results if found == status) for status in {one for one, _ in results}}
    return Row(
        server,
        kind,
        len(results),
        statuses,
        rps=len(results) / wall,
        per_core=len(results) / cpu,
        cpu_ms=1e3 * cpu / len(results),
        p50_ms=statistics.median(times),
        p99_ms=times[int(0.99 * (len(times) - 1))],
    )


class _Nowhere(asyncio.Transport):
    """A client's end that keeps what is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answers.append(bytes(data))

    def is_closing(self) -> bool:
        return False


async def path_cost(kind: str, image: str, rounds: int, count: int = 400) -> float:
    """Microseconds of CPU between a request's bytes and its answer's, on one connection; the cheapest round."""
    costs = []
    async with our_server(0) as server:
        for number in range(rounds):
            payloads = requests_of(kind, count, image, number)
            connection, client = server._connect(), _Nowhere()
            connection.connection_made(client)
            began = time.process_time()
            for payload in payloads:
                connection.data_received(payload)
                while not client.answers:  # noqa: ASYNC110  (what is waited for sets no event)
                    await asyncio.sleep(0)
                answer = client.answers.pop()
            costs.append((time.process_time() - began) / count * 1e6)
            connection.connection_lost(ConnectionError())
            if int(answer[9:12]) != EXPECTED[kind]:
                raise RuntimeError(f"{kind}: expected {EXPECTED[kind]}, got {answer!r}")
    return min(costs)


def path_costs(image: str, rounds: int) -> dict[str, float]:
    """`path_cost` of each kind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return {kind: runner.run(path_cost(kind, image, rounds)) for kind in KINDS}


def signature_costs() -> tuple[float, float]:
    """Microseconds of CPU that this machine needs to accept, and to reject, one sr25519 signature."""
    message = b"1795435661704211827." * 10
    good = VALIDATOR.sign(message)
    bad = bytes([good[0] ^ 1]) + good[1:]
    costs = []
    for signature in (good, bad):
        began = time.process_time()
        for _ in range(2000):
            verify_signature(VALIDATOR.ss58_address, message, signature, "sr25519")
        costs.append((time.process_time() - began) / 2000 * 1e6)
    return costs[0], costs[1]


def run(requests: int, clients: int, image: str, rounds: int) -> list[Row]:
    """Every kind of request against both servers, one after the other; of each, the round that cost least CPU."""
    rows = []
    for name, serve, count in (("stock 10.5", serve_stock, requests // 10), ("ours", serve_ours, requests)):
        ours, theirs = multiprocessing.Pipe()
        with reserved_ports(1) as (port,):
            process = multiprocessing.Process(target=serve, args=(port, theirs))
            process.start()
            pid = ours.recv()
            measure(name, port, pid, "valid", clients * 20, clients, image)  # warm
            for kind in KINDS:
                found = [measure(name, port, pid, kind, count, clients, image) for _ in range(rounds)]
                rows.append(min(found, key=lambda row: (row.statuses.keys() != {EXPECTED[row.kind]}, row.cpu_ms)))
            ours.send("stop")
            process.terminate()
            process.join()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=2000, help="requests of each kind to our axon; an eighth to the stock one"
    )
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument(
        "--image-bytes", type=int, default=15_000, help="bytes before base64: 15,000 makes a body of 20 kB"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured; the cheapest round is shown")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")

    image = base64.b64encode(random.Random(0).randbytes(options.image_bytes)).decode()
    rows = run(options.requests, options.clients, image, options.rounds)
    (accept, reject), paths = signature_costs(), path_costs(image, rounds=4 * options.rounds)
    if options.json:
        figures = {"accept_us": accept, "reject_us": reject, "path_us": paths}
        print(json.dumps({"rows": [asdict(row) for row in rows], **figures}, indent=1))
        return 0
    print(
        f"{'server':11} {'request':17} {'n':>6} {'requests/s':>10} {'per core':>9} {'CPU ms':>8} {'p50 ms':>8} "
        f"{'p99 ms':>8}  statuses"
    )
    for row in rows:
        print(
            f"{row.server:11} {row.kind:17} {row.requests:6} {row.rps:10.0f} {row.per_core:9.0f} {row.cpu_ms:8.3f} "
            f"{row.p50_ms:8.2f} {row.p99_ms:8.2f}  {row.statuses}"
        )
    strange = [
        f"{row.server}, {row.kind}: {row.statuses}" for row in rows if row.statuses.keys() != {EXPECTED[row.kind]}
    ]
    if strange:
        print(
            "not a valid run, other statuses came than must (too busy a machine lets nonces grow old):",
            *strange,
            sep="\n",
        )
        return 1
    stock, ours = rows[0], rows[len(KINDS)]
    forged = rows[len(KINDS) + 1]
    print(f"\none sr25519 signature: {accept:.0f} us of CPU to accept, {reject:.0f} us to reject")
    print("one request without sockets:", ", ".join(f"{kind} {cost:.1f}" for kind, cost in paths.items()), "us of CPU")
    for figure, asked, reached, passed in (
        (
            "requests/s per core, ours / stock",
            ">= 6",
            f"{ours.per_core / stock.per_core:.1f}",
            ours.per_core >= 6 * stock.per_core,
        ),
        (
            "CPU per request, ours / stock",
            "<= 0.25",
            f"{ours.cpu_ms / stock.cpu_ms:.3f}",
            ours.cpu_ms <= stock.cpu_ms / 4,
        ),
        ("forged refused/s per core", ">= 5000", f"{forged.per_core:.0f}", forged.per_core >= 5000),
    ):
        print(f"{'pass' if passed else 'FAIL'}  {figure}: asked {asked}, reached {reached}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
