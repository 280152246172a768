"""kernels.py --compare: ours against every library that is importable, shape by shape, beside the machine's limits.

Every library runs in its own process (workers.py) with the same threads; contenders and limits take turns in rounds,
medians count. Weights are packed once by all that can. A contender four times slower than the best takes one turn. A
round in which the peak was well below the run's best is repeated: something else had the machine.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import peers
from workers import Worker, WorkerError

FORMATS = {"f32": ("float32", 4, 4), "bf16": ("bfloat16", 2, 4), "int8": ("int8", 1, 4)}  # peak, bytes in, bytes out
PAIRS = [(2048, 2048), (8192, 2048), (2048, 8192), (4864, 896), (896, 4864), (151936, 896)]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 512, 2048]
SQUARES = [64, 128, 256, 512, 1024, 2048, 4096]
QUICK = {"squares": [256, 1024], "rows": [1, 8, 64, 512], "nk": [(2048, 2048), (896, 4864)]}
HUGE, HUGE_ROWS = 100_000, 16  # outputs of a vocabulary: nobody multiplies many rows by them
SLOW = 4.0  # times the best
CALM = 0.93  # of the run's best peak: a round below it does not count, something else had the machine
TURN = 0.02  # seconds
SECONDS = 3.0  # of a shape and format, after which no round is begun
SHORTEST_READ = 1 << 20  # bytes: below, the barrier and not the cache would be measured
LEGEND = """\
limit: the larger of the time of the arithmetic and of reading the weights once, both measured in the same rounds; in
GFLOP/s. GB/s: weights read. ratio: ours over the best peer. bf16: ours takes and returns float32 ("exact": float32
arithmetic on bfloat16 weights), torch takes and returns bfloat16. int8: numbers of 7 bits, here as int8, by the peers
as uint8, times int8, to int32 (torch: float32); "dynamic" peers take float32, quantise it inside, and return float32.
!: the machine was not idle and the row does not count, repeat."""


@dataclass
class Shape:
    """What was measured of one product, c[m, n] = a[m, k] w[n, k]^T in one format."""

    format: str
    m: int
    n: int
    k: int
    peak: float = 0.0  # operations/s
    read: float = 0.0  # bytes/s
    rates: dict[str, float] = field(default_factory=dict)  # contender -> operations/s
    disturbed: bool = False  # something else had the machine in all rounds but one, or in all

    @property
    def work(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def weights(self) -> int:
        return self.n * self.k * FORMATS[self.format][1]

    @property
    def intensity(self) -> float:
        """Operations a byte of weights, activations and results."""
        _, inner, outer = FORMATS[self.format]
        return self.work / (self.weights + self.m * self.k * inner + self.m * self.n * outer)

    @property
    def limit(self) -> float:
        return self.work / max(self.work / self.peak, self.weights / self.read)

    @property
    def ours(self) -> float | None:
        return self.rates.get(peers.OURS, self.rates.get(f"{peers.OURS} exact"))

    @property
    def best(self) -> tuple[str, float] | None:
        """The fastest peer."""
        others = [(name, rate) for name, rate in self.rates.items() if not name.startswith(peers.OURS)]
        return max(others, key=lambda pair: pair[1], default=None)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.best[1] if self.ours and self.best else None


def shapes(args: argparse.Namespace) -> Iterator[tuple[int, int, list[int]]]:
    """(n, k, rows): weights once, all their rows."""
    found: dict[tuple[int, int], list[int]] = {(size, size): [size] for size in args.squares}
    for n, k in args.nk:
        for m in args.rows:
            if n < HUGE or m <= HUGE_ROWS:
                known = found.setdefault((n, k), [])
                known += [m] if m not in known else []
    for (n, k), rows in found.items():
        yield n, k, sorted(rows)


class Field:
    """The contenders, and the lines that say who is missing and why."""

    def __init__(self, threads: int, isa: str | None, libraries: list[str]) -> None:
        self.notes: list[str] = []
        self.what: dict[str, str] = {}
        self.peaks: dict[str, float] = {}
        self.contenders: dict[str, list[tuple[str, Worker]]] = {format: [] for format in FORMATS}
        started = {name: Worker(name, threads, isa) for name in dict.fromkeys([peers.OURS, *libraries])}
        self.workers: dict[str, Worker] = {}
        for name, worker in started.items():
            try:
                self.what[name], made = worker.hello()
            except WorkerError as error:
                self.note(f"{name} is left out: {error}")
                worker.close()
                continue
            self.workers[name] = worker
            for format, contender in made:
                self.contenders[format].append((contender, worker))
        for format, found in self.contenders.items():
            if not any(contender.startswith(peers.OURS) for contender, _ in found):
                self.note(f"{format}: this build of lanewise does not multiply it")

    def note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)
            print(line, file=sys.stderr)

    def weights(self, format: str, n: int, k: int) -> None:
        """To every worker that is still there."""
        for known, found in self.contenders.items():
            self.contenders[known] = [pair for pair in found if pair[1].process.is_alive()]
        for worker in {id(worker): worker for _, worker in self.contenders[format]}.values():
            try:
                worker.ask("weights", format, n, k)
            except WorkerError as error:
                self.note(f"{worker.library} {n} x {k} {format}: {error}")

    def measure(self, shape: Shape, repeat: int, seconds: float) -> None:
        """Fills a shape in: a first product of everybody, then rounds; a first turn that is much too slow stands."""
        first: dict[str, float] = {}
        for name, worker in self.contenders[shape.format]:
            try:
                first[name] = worker.ask("rows", name, shape.m)
            except WorkerError as error:
                self.note(f"{name} is left out of {shape.m} x {shape.n} x {shape.k} {shape.format}: {error}")
        workers = dict(self.contenders[shape.format])
        names = [*first, "limit peak", "limit read"]
        values: dict[str, list[Any]] = {name: [] for name in names}
        begin = time.monotonic()
        for round_ in range(3 * repeat):
            start = round_ % len(names)
            turns = {name: self._turn(name, workers, shape) for name in names[start:] + names[:start]}
            names = [name for name in names if turns[name] is not None]
            peak = turns["limit peak"] or 0.0
            self.peaks[shape.format] = max(peak, self.peaks.get(shape.format, 0.0))
            disturbed = peak < CALM * self.peaks[shape.format]
            shape.disturbed = disturbed and round_ == 3 * repeat - 1 and not values["limit peak"]  # the last chance
            if disturbed and not shape.disturbed:
                time.sleep(0.5)
                continue
            for name in names:
                values[name].append(turns[name])
            if len(values["limit peak"]) == 1:
                best = min((values[name][0] for name in names if not name.startswith("limit")), default=0.0)
                kept = [name for name in names if values[name][0] < SLOW * best]
                names = [name for name in names if name in kept or name.startswith(("limit", peers.OURS))]
            enough = len(values["limit peak"])
            if enough == repeat or (enough > 1 and time.monotonic() - begin > seconds):
                break
        shape.disturbed = shape.disturbed or len(values["limit peak"]) < min(2, repeat)
        middle = {name: statistics.median(found) for name, found in values.items() if found}
        shape.peak, shape.read = middle.pop("limit peak"), middle.pop("limit read")
        shape.rates = {name: shape.work / second for name, second in middle.items()}

    def _turn(self, name: str, workers: dict[str, Worker], shape: Shape) -> Any:
        """Seconds of a contender, or a limit's rate; None from who fails."""
        try:
            if name == "limit peak":
                return self.workers[peers.OURS].ask("limit", FORMATS[shape.format][0], 0)
            if name == "limit read":
                return self.workers[peers.OURS].ask("limit", "read", max(shape.weights, SHORTEST_READ))
            return workers[name].ask("turn", name, TURN)
        except WorkerError as error:
            if name.startswith("limit"):
                raise
            self.note(f"{name} fell out at {shape.m} x {shape.n} x {shape.k} {shape.format}: {error}")
            return None

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def tables(found: list[Shape]) -> str:
    """The page: a table per format, then who wins by how much, and where it is worst."""
    text = ""
    for format in FORMATS:
        mine = [shape for shape in found if shape.format == format]
        if not mine:
            continue
        head = [f"{format}: M x N x K", "limit", "ours", "GB/s", "of limit", "best peer", "", "ratio"]
        exact = any(f"{peers.OURS} exact" in shape.rates for shape in mine)
        rows = [line(shape, exact) for shape in mine]
        text += common.table(head + ["exact"] * exact, rows)
        ratios = [(shape.ratio, shape) for shape in mine if shape.ratio and not shape.disturbed]
        if ratios:
            behind = sum(ratio < 0.97 for ratio, _ in ratios)
            worst = ", ".join(
                f"{s.m} x {s.n} x {s.k} {ratio:.2f}" for ratio, s in sorted(ratios, key=lambda pair: pair[0])[:5]
            )
            mean = geometric_mean([ratio for ratio, _ in ratios])
            text += f"{format}: {mean:.2f} times the best peer, the geometric mean of {len(ratios)} shapes; "
            text += f"more than 3 % behind at {behind}; the worst: {worst}\n"
        text += "\n"
    return text


def line(shape: Shape, exact: bool) -> list[Any]:
    ours, best = shape.ours, shape.best
    mark = " !" if shape.disturbed else ""
    cells: list[Any] = [f"{shape.m} x {shape.n} x {shape.k}{mark}", f"{shape.limit / 1e9:.0f}", "-", "-", "-"]
    if ours:
        weights = shape.weights * ours / shape.work
        cells[2:] = [f"{ours / 1e9:.0f}", f"{weights / 1e9:.0f}", f"{ours / shape.limit:.0%}"]
    cells += [f"{best[1] / 1e9:.0f}", best[0]] if best else ["-", ""]
    cells.append(f"{shape.ratio:.2f}" if shape.ratio else "-")
    if exact:
        cells.append(f"{shape.rates.get(f'{peers.OURS} exact', 0.0) / 1e9:.0f}")
    return cells


def as_json(found: list[Shape]) -> dict[str, Any]:
    """format -> columns and rows: GFLOP/s (read: GB/s), null for who was left out."""
    data: dict[str, Any] = {}
    for format in FORMATS:
        mine = [shape for shape in found if shape.format == format]
        names = list(dict.fromkeys(name for shape in mine for name in shape.rates))
        rows = [
            [s.m, s.n, s.k, *(_short(s.rates.get(n)) for n in names), _short(s.limit), _short(s.peak), _short(s.read)]
            for s in mine
        ]
        disturbed = [index for index, s in enumerate(mine) if s.disturbed]
        if rows:
            columns = ["m", "n", "k", *names, "limit", "peak", "read"]
            data[format] = {"columns": columns, "rows": rows, "disturbed": disturbed}
    return data


def _short(rate: float | None) -> float | int | None:
    """In 1e9, three digits."""
    if rate is None:
        return None
    value = float(f"{rate / 1e9:.3g}")
    return int(value) if value == int(value) else value


def options(parser: argparse.ArgumentParser) -> None:
    """The options of --compare."""
    numbers = lambda text: [int(part) for part in text.split(",") if part]  # noqa: E731
    pairs = lambda text: [tuple(map(int, part.split("x"))) for part in text.split(",") if part]  # noqa: E731
    group = parser.add_argument_group("--compare")
    group.add_argument("--compare", action="store_true", help="ours against every library that is importable")
    group.add_argument("--squares", type=numbers, help="sizes of square products; '' for none")
    group.add_argument("--nk", type=pairs, metavar="NxK,...", help="weights: outputs x inputs; '' for none")
    group.add_argument("--formats", default=",".join(FORMATS))
    group.add_argument("--peers", default=",".join(name for name in peers.LIBRARIES if name != peers.OURS))
    group.add_argument("--quick", action="store_true", help="a few shapes, about a minute")


def main(args: argparse.Namespace) -> None:
    default = QUICK if args.quick else {"squares": SQUARES, "rows": ROWS, "nk": PAIRS}
    chosen = args.quick or any(getattr(args, name) is not None for name in default)
    whole = (
        not chosen
        and args.formats.split(",") == list(FORMATS)
        and set(peers.LIBRARIES) <= {peers.OURS, *args.peers.split(",")}
    )
    known = {"--formats": (args.formats, FORMATS), "--peers": (args.peers, peers.LIBRARIES)}
    for option, (text, names) in known.items():
        if unknown := set(text.split(",")) - set(names):
            sys.exit(f"{option}: {', '.join(names)} expected, got {', '.join(sorted(unknown))}")
    for name, values in default.items():
        if getattr(args, name) is None:
            setattr(args, name, values)
    context = common.make_context(args.isa, args.threads)
    for name in common.THREADS:
        os.environ[name] = str(context.threads)
    seconds = args.seconds or SECONDS
    field, found = Field(context.threads, args.isa, args.peers.split(",")), []
    try:
        for n, k, rows in shapes(args):
            for format in args.formats.split(","):
                field.weights(format, n, k)
                for m in rows:
                    found.append(Shape(format, m, n, k))
                    print(f"\r{m} x {n} x {k} {format:<20}", end="", file=sys.stderr, flush=True)
                    field.measure(found[-1], args.repeat, seconds)
    finally:
        field.close()
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    found.sort(key=lambda s: list(FORMATS).index(s.format))
    notes = "".join(f"{note}\n" for note in field.notes)
    libraries = "".join(f"{what}\n" for what in field.what.values())
    figures = {"peers": field.what, "notes": field.notes, "formats": as_json(found)}
    text = tables(found) + LEGEND + "\n\n" + libraries + notes
    if not args.json:
        folder = common.HERE / "results" if whole else common.HERE / "results" / "local"
        folder.mkdir(parents=True, exist_ok=True)
        args.json = str(folder / common.result_name("kernels", "compare", context, args.isa))
    common.finish(args, context, "kernels", figures, text)
    picture(args, figures | {"machine": common.machine(context)})


def picture(args: argparse.Namespace, data: dict[str, Any]) -> None:
    if args.json == "-":
        return
    try:
        import roofline
    except ImportError:
        print("no picture: matplotlib is not installed (the extra `plot`)", file=sys.stderr)
        return
    file = Path(args.json).with_suffix(".svg")
    if roofline.draw(data, file):
        print(f"written: {file}", file=sys.stderr)
    else:
        print("no picture: no row was measured in peace", file=sys.stderr)
