import asyncio
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url):
    headers = {"Authorization": "Bearer token-of-ann"}
    async with httpx2.AsyncClient(headers=headers) as http:
        print((await http.get(f"{url}/api/rates/eur")).json())
        async with Client(
            streamable_http_client(f"{url}/mcp", http_client=http)
        ) as client:
            result = await client.call_tool("speak", {"text": "hello"})
            print(result.structured_content)


asyncio.run(main(sys.argv[1]))
