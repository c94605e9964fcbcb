# docker build -t onnx-lowrank . && docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" onnx-lowrank --help
FROM python:3.11-slim AS build
# EXTRAS: of the package, "[images,text]" say, for samples that are to be decoded.
ARG VENV=/opt/onnx-lowrank
ARG EXTRAS=
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY onnx_lowrank onnx_lowrank
RUN python -m venv "$VENV" \
 && "$VENV/bin/pip" wheel --no-cache-dir --quiet --no-deps --wheel-dir wheels . \
 && "$VENV/bin/pip" install --no-cache-dir --quiet "$(ls -d "$PWD"/wheels/onnx_lowrank-*.whl)$EXTRAS"

FROM python:3.11-slim
COPY --from=build /opt/onnx-lowrank /opt/onnx-lowrank
USER 65534:65534
# A folder that any user may write in: of caches, and of what onnxruntime keeps.
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["/opt/onnx-lowrank/bin/onnx-lowrank"]
