"""Many live audio streams into text with a shared pool of Whisper workers."""
