"""A service with BentoML's own `@bentoml.api`."""

import bentoml


@bentoml.service(workers=1)
class Echo:
    @bentoml.api
    async def echo(self, text: str) -> str:
        return text
