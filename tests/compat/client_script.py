"""What one version of the openai client makes of the embedded provider; run by check_clients.py in its environment.

Reads base URLs by scenario from the command line, prints what happened as JSON. Needs openai and nothing else.
"""

import asyncio
import json
import sys

import openai

TEXT = "The cat sat on the mat."
CHAT = {"model": "small", "messages": [{"role": "user", "content": TEXT}]}


def client(url, retries=0):
    """An asynchronous client."""
    return openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=retries)


async def good(url):
    """Whole and streamed answers of both endpoints, headers and models."""
    async with client(url) as c:
        whole = await c.chat.completions.create(**CHAT)
        raw = await c.chat.completions.with_raw_response.create(**CHAT)
        stream = await c.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        response = await c.responses.create(model="small", input=TEXT)
        async with c.responses.stream(model="small", input=TEXT) as helper:
            async for _ in helper:
                pass
            streamed = (await helper.get_final_response()).output_text
        models = [model.id async for model in await c.models.list()]
    return {
        "chat": whole.choices[0].message.content,
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
        "headers": sum(name.startswith("x-ratelimit-") for name in raw.headers),
        "request id": (raw.headers["x-request-id"] or "")[:4],
        "chat stream": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "stream usage": chunks[-1].usage.total_tokens,
        "response": response.output_text,
        "response stream": streamed,
        "models": "small" in models,
    }


async def bad(url, retries):
    """The error of a call: class, status, code."""
    async with client(url, retries) as c:
        try:
            await c.chat.completions.create(**CHAT)
        except openai.APIStatusError as error:
            return [type(error).__name__, error.status_code, error.code]
        except Exception as error:
            return [type(error).__name__, None, None]
    return ["none", None, None]


async def broken_stream(url):
    """How a stream ends: the exception's class, or the text."""
    async with client(url) as c:
        text = ""
        try:
            async for chunk in await c.chat.completions.create(**CHAT, stream=True):
                text += chunk.choices[0].delta.content or ""
        except Exception as error:
            return type(error).__name__
    return text


async def main(urls):
    """Play all scenarios, the waiting ones at the same time."""
    errors = [name for name in urls if name.startswith("error ")]
    streams = [name for name in urls if name.startswith("stream ")]
    return {
        "good": await good(urls["good"]),
        **dict(zip(errors, await asyncio.gather(*(bad(urls[name], 2) for name in errors)), strict=True)),
        **dict(zip(streams, await asyncio.gather(*(broken_stream(urls[name]) for name in streams)), strict=True)),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
