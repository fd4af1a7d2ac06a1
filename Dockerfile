# Tidewatch without the local servers. The lock installs torch for CPUs and GPUs, which makes the image several GB large. For a small
# image name an index of CPU-only wheels of the same version:  docker build --build-arg TORCH_INDEX_URL=… .
ARG PYTHON_IMAGE=python:3.13.5-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX_URL=""
ENV UV_LINK_MODE=copy UV_CACHE_DIR=/var/cache/uv UV_HTTP_TIMEOUT=120 UV_HTTP_RETRIES=6 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-bootstrap.lock requirements-runtime.lock ./
RUN python -m venv tools && tools/bin/pip install --no-cache-dir --retries 6 --require-hashes -r requirements-bootstrap.lock
COPY deploy/without-gpu.awk ./
# CPU-only wheels of torch have other hashes than the lock, so torch is pinned by version there; everything else stays locked by hash.
RUN --mount=type=cache,target=/var/cache/uv \
    python -m venv --without-pip /opt/tidewatch && export VIRTUAL_ENV=/opt/tidewatch && \
    if [ -n "$TORCH_INDEX_URL" ]; then \
      tools/bin/uv pip install --no-deps --default-index "$TORCH_INDEX_URL" "$(grep -o '^torch==[^ ]*' requirements-runtime.lock)" && \
      awk -f without-gpu.awk requirements-runtime.lock > install.lock; \
    else cp requirements-runtime.lock install.lock; fi && \
    tools/bin/uv pip install --no-deps --require-hashes -r install.lock
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN tools/bin/uv build --wheel --no-build-isolation --python tools/bin/python --out-dir dist && \
    tools/bin/uv pip install --python /opt/tidewatch/bin/python --no-deps dist/*.whl && \
    /opt/tidewatch/bin/tidewatch --help > /dev/null

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /var/lib/tidewatch --shell /usr/sbin/nologin tidewatch && \
    install -d -o 10001 /var/lib/tidewatch/bundles
COPY --from=build /opt/tidewatch /opt/tidewatch
# Caches go where a read-only container can still write.
ENV PATH="/opt/tidewatch/bin:$PATH" PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /var/lib/tidewatch
USER 10001
STOPSIGNAL SIGTERM
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["tidewatch"]
CMD ["run"]
