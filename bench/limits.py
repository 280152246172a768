"""The machine's own limits: what every other figure is compared with. As `lanewise doctor --measure`, for longer or in JSON."""

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
