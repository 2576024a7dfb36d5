# A worker of Flink, Dataflow, or any runner of Beam's that starts workers from images; DEVICE is cpu or cuda.
#
#   docker build --build-arg DEVICE=cuda --build-arg MODELS="torchvision/resnet50@IMAGENET1K_V2" --tag REPOSITORY/megalith:1 .
#
# Python and Beam are those of the machine that starts runs. MODELS are baked in; others are downloaded by each worker.
ARG PYTHON=3.11
ARG BEAM=2.77.0
ARG DEVICE=cpu

FROM apache/beam_python${PYTHON}_sdk:${BEAM} AS beam

FROM python:${PYTHON}-slim-bookworm AS base
COPY --from=beam /opt/apache/beam /opt/apache/beam
# Where libraries keep the weights that they download.
ENV TORCH_HOME=/opt/weights/torch HF_HOME=/opt/weights/huggingface KERAS_HOME=/opt/weights/keras KERAS_BACKEND=torch
# Sums do not depend on the number of CPUs, and what is installed here is what runs.
ENV OMP_NUM_THREADS=1 RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
# Memory that a pass of a network frees is kept for the next one (transforms/memory.py).
ENV MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1
WORKDIR /opt/megalith
RUN pip install --no-cache-dir uv==0.13.9
COPY requirements.txt setup.py pyproject.toml ./
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM base AS cpu
# The lock names CUDA's libraries, which torch's CPU build does not ask for.
RUN uv pip install --system --compile-bytecode --no-cache --torch-backend=cpu \
    --constraint requirements.txt --requirement pyproject.toml \
    --extra adapters --extra models --extra samples --extra s3 --extra gs --extra heif --extra lpips

FROM base AS cuda
# torch's wheel brings CUDA's libraries; only the driver is the machine's, where Dataflow and NVIDIA's toolkit mount it.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 PATH=/usr/local/nvidia/bin:${PATH} \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN uv pip install --system --compile-bytecode --no-cache \
    --constraint requirements.txt --requirement pyproject.toml \
    --extra adapters --extra models --extra samples --extra s3 --extra gs --extra heif --extra lpips

# Last, because it changes most: a new attack does not install torch anew, nor do other models.
FROM ${DEVICE} AS worker
WORKDIR /opt/megalith
ARG MODELS=""
COPY transforms transforms
COPY pipeline pipeline
COPY megalith megalith
RUN uv pip install --system --compile-bytecode --no-cache --no-deps .
# hadolint ignore=DL3059
RUN python -c "import sys; from transforms.models.pin import pin; [pin(name) for name in sys.argv[1:]]" ${MODELS}
