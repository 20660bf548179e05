"""`policy-patch gateway`: a proxy before engines that adds a patch to each request by its model name.

What it checks and how requests are changed is in `policy_patch.serving`.
"""

import sys
from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say
from policy_patch.cli.options import ON_CONFLICT_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Serve patches by model name, in front of vLLM or of a baked checkpoint."
DESCRIPTION = """Serve patches by model name: a proxy that speaks OpenAI's protocol and adds the patch to each request
for `base+tox`, `base+tox@v1.2.0` or a stack `base+tox+bias`. Before it opens, it proves with a few requests that each
engine puts the patches where they count.

Requests that bring embeddings of their own, or fields that could move the patch, are refused. Each answer names its
patches in the header `x-policy-patch`, and in its field `policy_patch` unless it is streamed. The key of a client goes
on to the engine and is not logged. With --admin_port, the operator changes versions while it runs, from this machine.

With --lock exactly what a lock file pins is served. SIGHUP, or POST /lock at the operator's port, follows a changed
lock, all at once or not at all.

Examples:
  policy-patch gateway --upstream http://localhost:8000/v1 --base org/base --patch tox=org/tox-patch@v1.2.0
  policy-patch gateway --upstream http://a:8000/v1 http://b:8000/v1 --patch org/tox-patch --admin_port 8081
  policy-patch gateway --upstream http://localhost:8000/v1 --lock policy-patch.lock --admin_port 8081
  policy-patch gateway --upstream http://localhost:8000/v1 --upstream_kind baked --probe baked --patch tox=org/tox"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("--upstream", type=str, nargs="+", required=True, help="Addresses of engines, with /v1.")
    parser.add_argument("--patch", type=str, nargs="+", default=[], help="Folders or Hub ids: tox=org/tox-patch.")
    parser.add_argument("--lock", type=str | None, help="Lock file, in place of --patch and --base; SIGHUP follows it.")
    parser.add_argument("--base", type=str | None, help="The base: Hub id or folder. Default: what the patches name.")
    parser.add_argument("--model", type=str | None, help="Name of the base at the engines. Default: their only model.")
    parser.add_argument("--name", type=str | None, help="Name of the base in model names. Default: its last part.")
    parser.add_argument("--upstream_kind", type=str, default="prompt-embeds", help="prompt-embeds (vLLM) or baked.")
    parser.add_argument("--dtype", type=str | None, help="What the engines serve the base with.")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="Address to listen on.")
    parser.add_argument("--port", type=int, default=8080, help="Port for clients.")
    parser.add_argument("--admin_port", type=int | None, help="Port for the operator, on 127.0.0.1. Default: none.")
    parser.add_argument("--allow_base", action="store_true", help="Serve the base without a patch, too.")
    parser.add_argument("--no_check", action="store_true", help="Do not prove what the engines do. Unsafe.")
    parser.add_argument(
        "--probe", type=str | None, help="Export with a probe: compare each patch with it at the start."
    )
    parser.add_argument("--bits", type=int, default=16, help="Of the engines' weights, for --probe: 16, 8 or 4.")
    parser.add_argument("--no_chat", action="store_true", help="Do not check chat.")
    parser.add_argument("--chat_template", type=str | None, help="File with the base's own chat template.")
    parser.add_argument("--max_request_bytes", type=int, default=4 * 2**20, help="Largest request.")
    parser.add_argument("--timeout", type=float, default=600.0, help="Seconds to wait for bytes of an engine.")
    parser.add_argument("--on_conflict", type=str, default="warn", help=ON_CONFLICT_HELP)
    parser.add_argument("--cache_dir", type=str | None, help="Cache. Default: HF_HUB_CACHE.")
    parser.add_argument("--json", action="store_true", help="Print what is served as JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    import logging

    log = logging.getLogger("policy_patch.serving")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        return serve(args)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def serve(args: "Namespace") -> int:
    """Open the gateway and serve until the process is stopped."""
    from policy_patch.cli.usage import bad_usage
    from policy_patch.errors import ConfigError, EndpointError, PatchNameError, ServingError
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.serving.gateway_setup import (
        GatewaySettings,
        check_settings,
        open_gateway,
        reload_lock,
        serve_gateway,
    )

    settings = GatewaySettings(
        upstreams=args.upstream, patches=args.patch, lock=args.lock, base=args.base, model=args.model, name=args.name,
        kind=args.upstream_kind, dtype=args.dtype, allow_base=args.allow_base, check=not args.no_check,
        probe=args.probe, bits=args.bits,
        chat=not args.no_chat, chat_template=args.chat_template, most_bytes=args.max_request_bytes,
        timeout=args.timeout, on_conflict=args.on_conflict, hub=HubOptions(cache_dir=args.cache_dir),
    )  # fmt: skip
    try:
        check_settings(settings)
    except (ConfigError, PatchNameError, EndpointError) as error:
        bad_usage("gateway", add_arguments, str(error))
    try:
        gateway, load = open_gateway(settings)
    except ServingError as error:
        say(f"policy-patch: {error}")
        return 1
    names = [one["id"] for one in gateway.patches.models()]
    if args.json:
        print_json({"url": f"http://{args.host}:{args.port}/v1", "models": names, "checked": not args.no_check})
        sys.stdout.flush()
    else:
        say(f"Serving {', '.join(names)} at http://{args.host}:{args.port}/v1.")
    if args.no_check:
        say("WARNING: --no_check: nobody has proved that the engines put the patches where they count.")
    reload = None if args.lock is None else lambda: reload_lock(gateway, settings)
    serve_gateway(gateway, load, host=args.host, port=args.port, admin_port=args.admin_port, reload=reload)
    return 0
