# syntax=docker/dockerfile:1
# Kindling with export and server. The CPU is the default; for CUDA, add: --build-arg TORCH_INDEX=
#   docker build --tag kindling .
#   docker run --rm --volume runs:/project/runs kindling fit --config configs/quickstart.yaml
#   docker build --tag kindling-server --target server .
#   docker run --rm --volume runs:/project/runs --publish 127.0.0.1:8000:8000 --env KINDLING_API_KEY=<secret> \
#     kindling-server
# A folder mounted instead of the volume `runs` must be writable for user 1000. `kindling fit --ckpt_path last` resumes a
# run that `docker stop` has interrupted.
FROM python:3.11-slim AS build

RUN python -m venv /opt/kindling
ENV PATH=/opt/kindling/bin:$PATH
WORKDIR /source
# torch in a layer of its own, which a change of Kindling leaves as it is. The wheels of this index do not include CUDA,
# which takes several GB.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE copier.yml ./
COPY src src
COPY configs configs
COPY template template
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt '.[export,serve]'

FROM python:3.11-slim AS server

RUN useradd --create-home --uid 1000 app \
    && install --directory --owner app /project /project/runs /project/data
WORKDIR /project
COPY --from=build /opt/kindling /opt/kindling
USER 1000
ENV PATH=/opt/kindling/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["kindling"]
CMD ["serve", "--ckpt_path", "best", "--host", "0.0.0.0"]

FROM server
HEALTHCHECK NONE
CMD ["--help"]
