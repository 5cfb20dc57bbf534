"""A service in front of others, with `bentoml.depends`."""

import bentoml


@bentoml.service(workers=1)
class Model:
    @bentoml.api
    async def answer(self, text: str) -> str:
        return text


@bentoml.service(workers=1)
class Router:
    model = bentoml.depends(Model)

    @bentoml.api
    async def echo(self, text: str) -> str:
        return await self.model.to_async.answer(text)
