"""The gateway: an ASGI app in front of a pool of workers."""
