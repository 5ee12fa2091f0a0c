# The server, for CPUs:   docker build -t ray-whisper .
# and for NVIDIA GPUs:    docker build -t ray-whisper:cuda --build-arg BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 .
# Any base with apt and Python 3.10 or newer will do; CTranslate2 on a GPU wants libcublas.so.12 in it.
ARG BASE=ubuntu:24.04

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python3 -m venv /opt/ray-whisper
# Every package pinned, every hash checked, wheels only; in a layer that lasts until one of them changes.
COPY requirements/run.txt requirements/run.txt
RUN /opt/ray-whisper/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/ray-whisper/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --no-log-init --create-home --home-dir /var/lib/ray-whisper ray-whisper \
    && install --directory --owner ray-whisper --group ray-whisper --mode 0700 /keys /cache
COPY --from=build /opt/ray-whisper /opt/ray-whisper
ENV PATH=/opt/ray-whisper/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_WHISPER_CACHE=/cache \
    HF_HOME=/cache/huggingface
USER ray-whisper
WORKDIR /var/lib/ray-whisper
VOLUME ["/keys", "/cache"]
EXPOSE 8000
# Loading a large model the first time takes its time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["/opt/ray-whisper/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["ray-whisper"]
# Beyond loopback it starts only with keys, or with --allow-anonymous.
CMD ["serve", "--host", "0.0.0.0", "--keys-file", "/keys/keys.json"]
