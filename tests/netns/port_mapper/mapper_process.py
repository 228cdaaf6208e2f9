"""A port mapper in a process of its own, told over standard input what to do: one JSON object a line."""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import msgspec

from cnm.errors import CnmError, to_reply
from cnm.messages.node import PortSlice
from cnm.messages.ports import CheckPorts, PublishPorts, UnpublishPorts
from cnm.types import dec_hook, enc_hook
from cnm_port_mapper.config import Settings
from cnm_port_mapper.service import open_port_mapper

COMMANDS = {"publish": PublishPorts, "unpublish": UnpublishPorts, "check": CheckPorts}


async def answer(service, verb, body):
    if verb == "converge":
        done = await service.converge(msgspec.convert(body, PortSlice, dec_hook=dec_hook))
        return {
            "closed": done.closed,
            "published": done.published,
            "repaired": [str(step) for step in done.repaired],
            "problems": {sandbox_id: str(error) for sandbox_id, error in done.problems},
        }
    kind = COMMANDS[verb]
    handler = next(route.handler for route in service.routes() if route.command is kind)
    return msgspec.to_builtins(await handler(msgspec.convert(body, kind, dec_hook=dec_hook)), enc_hook=enc_hook)


def tell(reply):
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


async def serve(settings):
    reader = asyncio.StreamReader(limit=1 << 24)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with open_port_mapper(settings) as service, asyncio.TaskGroup() as tasks:

        async def one(number, verb, body):
            try:
                reply = {"ok": await answer(service, verb, body)}
            except CnmError as error:
                reply = msgspec.to_builtins(to_reply(error), enc_hook=enc_hook)
            tell({"number": number, **reply})

        tell({"ready": os.getpid()})
        while line := await reader.readline():
            tasks.create_task(one(**json.loads(line)))
    pipe.close()
    await asyncio.sleep(0)


if __name__ == "__main__":
    runner = asyncio.Runner()
    if sys.argv[1] == "uvloop":
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner, contextlib.suppress(KeyboardInterrupt):
        run_dir = Path(sys.argv[3]) if sys.argv[3] else None
        runner.run(serve(Settings(udp_timeout_s=float(sys.argv[2]), run_dir=run_dir)))
