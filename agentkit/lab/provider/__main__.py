"""The command `python -m agentkit.lab.provider`: serve a provider on loopback until Ctrl-C, then print its totals."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from dataclasses import asdict

from agentkit.lab.provider.call_log import CallRecord
from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.quota import presets
from agentkit.lab.provider.server import Server

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C: `python -m agentkit.lab.provider --preset tier1 --port 0 --log`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    provider = Provider(options.preset, seed=options.seed)
    if options.log:
        provider.subscribe(lambda call: print(_line(call), flush=True))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM acts like Ctrl-C
    try:
        with Server(provider, port=options.port) as server:
            print(f"{options.preset}: {server.base_url} (any key; Ctrl-C to stop)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        parser.exit(1, f"{error}\n")
    for name, value in asdict(provider.statistics()).items():
        print(f"{name:<15} {value}")


def _parser() -> argparse.ArgumentParser:
    known = presets("rate_limits.json")
    about = "\n".join(f"  {name:<11}{preset['about']}" for name, preset in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m agentkit.lab.provider",
        description="An OpenAI-compatible provider on this machine: no key, no network, no money.",
        epilog=f"presets:\n{about}\n\nTheir figures and sources are in data/rate_limits.json and data/latency.json.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--preset", choices=known, default="lesson", metavar="NAME", help="limits and latency, see below"
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (the default)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--log", action="store_true", help="print a line for each call when it ends")
    return parser


def _line(call: CallRecord) -> str:
    seconds = (call.finished or call.arrived) - call.arrived
    return (
        f"{call.number:>6}  {call.endpoint:<9}  retry {call.retry}  {call.status or '---'}  {call.outcome:<18} "
        f"{seconds:7.3f} s  {call.prompt_tokens} + {call.output_tokens} tokens"
    )


if __name__ == "__main__":
    main()
