"""A payment service as an MCP server, a child process that knows nothing of torpor."""

from mcp.server import MCPServer

server = MCPServer("payments")


@server.tool()
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


if __name__ == "__main__":
    server.run()
