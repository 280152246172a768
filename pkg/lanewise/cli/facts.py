"""lanewise info MODEL: what a model is and takes, before it loads. lanewise doctor: what this machine can do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .options import add_threads, check_type

_BYTES = ("file_bytes", "weights", "cache", "scratch", "logits", "total", "cache_per_token")


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declares both commands."""
    info = commands.add_parser("info", parents=[common], help="what a model is and what memory it takes")
    info.add_argument("model", metavar="MODEL", nargs="?", default="builtin", help="folder, owner/name, or builtin")
    info.add_argument("--context", type=int, metavar="N", help="plan memory for so many tokens; default: the limit")
    info.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once")
    info.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the weights")
    info.add_argument("--quantize", metavar="TYPE", help="plan memory for load(quantize=TYPE): q4, Q4_K_M, ...")
    info.add_argument("--kv-dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of keys and values")
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=run_info, parser=info)
    doctor = commands.add_parser("doctor", parents=[common], help="what this machine is and which kernels run on it")
    doctor.add_argument("--measure", action="store_true", help="measure the machine's limits for about five seconds")
    doctor.add_argument("--json", action="store_true")
    add_threads(doctor)
    doctor.set_defaults(run=run_doctor, parser=doctor)


def run_info(options: argparse.Namespace) -> int:
    """Prints lanewise.model.model.describe()."""
    from ..model.model import describe

    check_type(options.quantize)
    found = describe(
        options.model, context=options.context, batch=options.batch, dtype=options.dtype, quantize=options.quantize,
        kv_dtype=options.kv_dtype,
    )  # fmt: skip
    print(json.dumps(found, ensure_ascii=False) if options.json else table(found))
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Prints lanewise.doctor.report(); 1 if nothing can run as asked."""
    from .. import doctor

    if options.measure and not options.json and sys.stderr.isatty():
        print("measuring for about five seconds ...", file=sys.stderr)
    found = doctor.report(options.measure, threads=options.threads, isa=options.isa)
    print(json.dumps(found, ensure_ascii=False) if options.json else doctor.render(found))
    return 1 if found["error"] else 0


def table(found: dict[str, Any], indent: str = "") -> str:
    """Lines `name  value`; an inner dictionary becomes an indented block."""
    width = max(map(len, found), default=0) + 2
    lines = []
    for name, value in found.items():
        label = f"{indent}{name.replace('_', ' '):<{width}}"
        if isinstance(value, dict) and all(isinstance(v, int) for v in value.values()) and name not in ("memory",):
            show = _bytes if name == "formats" else str
            lines.append(label + ", ".join(f"{key} {show(v)}" for key, v in value.items()))
        elif isinstance(value, dict):
            lines += [label.rstrip(), table(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(label + ", ".join(map(str, value)))
        elif name in _BYTES and isinstance(value, int):
            lines.append(label + _bytes(value))
        else:
            lines.append(label + (f"{value:,}" if isinstance(value, int) and value is not True else str(value)))
    return "\n".join(lines)


def _bytes(value: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value} bytes"
