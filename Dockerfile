# The suite on a slim Python image, without libGL and without a GPU driver. Build and run the quick start:
#   docker build -t retrieval-distill-benchmark .
#   docker run --rm -v "$PWD/results:/results" retrieval-distill-benchmark
FROM python:3.13-slim

# The build reads version and commit from git.
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN git config --global --add safe.directory /src && pip install --no-cache-dir /src

ENV BENCHMARK_DATA=/results/data
WORKDIR /results
CMD ["benchmark", "run", "--method", "cdd", "--dataset", "glyphs2"]
