"""Plain Starlette: one JSON parse, one JSON answer."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"text": (await request.json())["text"]})


app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
