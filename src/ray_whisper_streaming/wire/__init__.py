"""The protocols without their sockets: bytes and messages in, events out."""
