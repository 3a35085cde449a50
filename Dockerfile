# FramePack's page for one GPU: PyTorch's wheels bring CUDA, NVIDIA's container toolkit the driver (docs/platforms.md).
# scripts/try_rootfs goes these steps without an engine.
FROM python:3.13-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
# Triton compiles what launches a kernel with gcc.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# Another build of PyTorch: --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX_URL=
COPY requirements.txt constraints.txt /tmp/
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
    --requirement /tmp/requirements.txt --constraint /tmp/constraints.txt
COPY --from=wheel /wheels /wheels
# A new volume takes the owner of the folder that it is mounted at.
RUN pip install --no-cache-dir --no-deps /wheels/*.whl \
    && useradd --uid 10001 --create-home framepack \
    && install --directory --owner framepack --group framepack /data /data/cache /data/hf_download

USER framepack
# All that is written is below /data; the rest may be read-only.
ENV FRAMEPACK_DATA=/data XDG_CACHE_HOME=/data/cache/home TRITON_CACHE_DIR=/data/cache/triton
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["framepack-page", "--server", "0.0.0.0"]
# compose.yaml publishes the port on this computer alone; for others: --auth FILE (docs/deploy.md).
CMD ["--allow-anonymous"]
