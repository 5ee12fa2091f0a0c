"""What the module `whisper_online` re-exports: the API of whisper_streaming and of its Ray fork."""
