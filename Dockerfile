# syntax=docker/dockerfile:1
# Kindling on the CPU, with export and server:
#   docker build --tag kindling .
#   docker run --rm --volume runs:/project/runs kindling fit --config configs/quickstart.yaml
#   docker run --rm --volume runs:/project/runs --publish 127.0.0.1:8000:8000 --env KINDLING_API_KEY=<secret> \
#     kindling serve --ckpt_path best --host 0.0.0.0
# A folder mounted instead of the volume `runs` must be writable for user 1000. `kindling fit --ckpt_path last` resumes a
# run that `docker stop` has interrupted.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 app \
    && install --directory --owner app /project /project/runs /project/data
WORKDIR /project

COPY pyproject.toml constraints.txt README.md LICENSE copier.yml ./
COPY src src
COPY configs configs
COPY template template
# The wheels of this index do not include CUDA, which takes several GB.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --root-user-action ignore --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint constraints.txt '.[export,serve]'

USER app
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
ENTRYPOINT ["kindling"]
CMD ["--help"]
