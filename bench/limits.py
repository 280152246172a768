"""The machine's own limits, which every other figure is compared with: `lanewise doctor --measure`, but longer."""

from __future__ import annotations

import common

from lanewise import doctor


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.set_defaults(seconds=10.0)
    args = parser.parse_args()
    found = doctor.peaks(seconds=args.seconds, threads=args.threads, isa=args.isa)
    common.finish(args, common.make_context(args.isa, args.threads), "limits", {"peaks": found}, doctor.render(found))


if __name__ == "__main__":
    main()
