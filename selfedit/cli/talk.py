"""The commands that talk: chat, serve, mcp."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from selfedit.cli.options import BAD_INPUT, add_versions, open_model, open_store, path, project_versions, whole
from selfedit.errors import SelfeditError
from selfedit.terminal import note, one_line, say

PORT = 8765


def add(commands, common: argparse.ArgumentParser, with_backend: argparse.ArgumentParser) -> None:
    chat = commands.add_parser(
        "chat", parents=[common, with_backend], help="talk; what you tell it is remembered next time"
    )
    chat.add_argument("--session", metavar="NAME", help="continue this session, or begin it (default: a new one)")
    chat.add_argument("--tokens", type=whole(1, 100_000), default=256, help="longest answer, in tokens")
    chat.add_argument(
        "--idle", type=whole(1, 100_000), default=180, metavar="SECONDS", help="learn when nothing is said for so long"
    )
    add_versions(chat)
    chat.add_argument("--no-learn", action="store_true", help="remember only as text; do not train in the background")
    chat.set_defaults(run=_chat)

    serve = commands.add_parser(
        "serve", parents=[common, with_backend], help="an OpenAI-compatible server, with MCP and a web page"
    )
    serve.add_argument("--port", type=whole(0, 65_535), default=PORT, help="0: any that is free")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; another than this machine's needs --certificate or --insecure",
    )
    serve.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a further name by which clients call this server; repeatable",
    )
    serve.add_argument(
        "--token",
        metavar="TOKEN",
        help="what clients must send (default: SELFEDIT_TOKEN, or a new one that is stored in the home)",
    )
    serve.add_argument("--certificate", type=path, metavar="FILE", help="a TLS certificate (PEM); with --key")
    serve.add_argument("--key", type=path, metavar="FILE", help="its private key (PEM)")
    serve.add_argument("--insecure", action="store_true", help="listen on another address without TLS")
    serve.add_argument(
        "--waiting",
        type=whole(1, 100_000),
        default=256,
        help="questions that may wait at once; a further one gets status 429",
    )
    serve.set_defaults(run=_serve)

    mcp = commands.add_parser(
        "mcp", parents=[common, with_backend], help="MCP over standard input and output, for editors and agents"
    )
    mcp.set_defaults(run=_mcp)


def _home(arguments) -> Path:
    """The absolute path of the home, by which messages to clients are freed of paths."""
    from selfedit.memory.store import default_home

    return Path(os.path.realpath(arguments.home or default_home()))


# chat


def _chat(arguments) -> int:
    from selfedit.cli.chat import ChatLoop

    model = open_model(arguments, note)
    return ChatLoop(
        model,
        _home(arguments),
        arguments.session,
        max_new_tokens=arguments.tokens,
        idle_s=arguments.idle,
        learns=not arguments.no_learn,
        as_json=arguments.json,
        library=arguments.library,
        project=project_versions(arguments, open_store(arguments), model.fingerprint, note),
    ).run()


# serve


def _serve(arguments) -> int:
    import uvicorn

    from selfedit.disk import check_writable
    from selfedit.serve.app import create_app
    from selfedit.serve.guard import Http
    from selfedit.serve.service import Service
    from selfedit.serve.token import stored_token
    from selfedit.sessions import reader_of

    home = _home(arguments)
    check_writable(home, "--home or SELFEDIT_HOME")
    is_local = arguments.host in ("127.0.0.1", "localhost", "::1")
    has_tls = _checked_tls(arguments)
    if not (is_local or has_tls or arguments.insecure):
        raise SelfeditError(
            f"--host {arguments.host} is reachable from other machines, which could read the token: give --certificate "
            "and --key, or --insecure in a network that you trust"
        )
    token = stored_token(home, arguments.token)
    listening = _listening(arguments.host, arguments.port)
    model = open_model(arguments, note)
    service = Service(model, home, arguments.waiting, reader_of(model, note))
    names = ("127.0.0.1", "localhost", "::1", *([] if is_local else [arguments.host]), *arguments.name)
    config = uvicorn.Config(
        create_app(service, token, names),
        http=Http,
        log_level="warning",
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    port = listening.getsockname()[1]
    shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    base = f"http{'s' * has_tls}://{shown}:{port}"
    say(f"page    {base}/#token={token}")
    say(f"OpenAI  {base}/v1   key {token}   model {service.model.name}")
    say(f"MCP     {base}/mcp/")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _checked_tls(arguments) -> bool:
    if bool(arguments.certificate) != bool(arguments.key):
        raise SelfeditError("give both --certificate and --key")
    if not arguments.certificate:
        return False
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(arguments.certificate, arguments.key)
    except (OSError, ssl.SSLError) as error:
        raise SelfeditError(
            f"{arguments.certificate} and {arguments.key}: no usable certificate and key ({error})"
        ) from None
    return True


def _listening(host: str, port: int):
    """A socket that listens there. Raises SelfeditError if it cannot."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        raise SelfeditError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; give another --port or --host"
        ) from None
    return listening


# mcp


def _mcp(arguments) -> int:
    import anyio

    from selfedit.serve.mcp import mcp_server
    from selfedit.serve.service import Service

    if sys.stdin is None or sys.stdin.isatty():
        note("this speaks MCP over standard input and output; an editor or an agent starts it (see docs/server.md)")
        return BAD_INPUT
    service = Service(open_model(arguments, lambda message: note(one_line(message))), _home(arguments))

    async def run() -> None:
        async with service.running():
            await mcp_server(service).run_stdio_async()

    anyio.run(run)
    return 0
